"""An exported task is a model of the user's own: it loads by factory and weights, and gives the same bits."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from madpipe.errors import MissingFileError
from madpipe.targets.load import OutputKind, Target, load_target
from madpipe.tasks.build import build_task
from madpipe.tasks.export import export_task
from madpipe.tasks.task import Task

# module of the factory -> its arguments, what the output means, the shape of one input
UNTRAINED = {
    "convnet": ({"image": [1, 8, 8], "channels": [4], "hidden": 5, "outputs": 3}, "categorical", (1, 8, 8)),
    "superposition": ({"features": 5, "hidden": 2, "identity": True}, "regression", (5,)),
    "transformer": (
        {"vocabulary": 5, "length": 3, "width": 4, "heads": 2, "neurons": 6, "layers": 2},
        "categorical",
        (3,),
    ),
    "residual_mlp": ({"features": 5, "neurons": 3, "residual": 8, "layers": 2}, "regression", (5,)),
}


@pytest.fixture(scope="module", params=["mlp", *UNTRAINED])
def task(request: pytest.FixtureRequest) -> Task:
    if request.param == "mlp":
        return build_task({"name": "digits", "attack": "conj", "net": "mlp"})
    return untrained_task(request.param, *UNTRAINED[request.param])


def untrained_task(module: str, kwargs: dict, output: OutputKind, shape: tuple[int, ...]) -> Task:
    """The weights' values make no difference here, and training a convolutional network takes ten seconds."""
    target = load_target(f"madpipe.targets.{module}:build", kwargs, None, output, Path())
    rows = np.random.default_rng(0).random((6, *shape), dtype=np.float32)
    flags = np.arange(6) > 3
    return Task(
        name="a",
        target=target,
        sites=("*",),
        trusted=rows,
        untrusted=rows,
        test=rows,
        is_anomalous=flags,
        agree=rows,
        agree_subsets={"first": np.arange(6) == 0},
    )


@pytest.fixture(scope="module")
def folder(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "demo"
    export_task(task, place)
    return place


def loaded(folder: Path) -> tuple[Target, dict]:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    wanted = config["target"]
    target = load_target(wanted["factory"], wanted["kwargs"], Path(wanted["weights"]), wanted["output"], folder)
    return target, config


def test_the_exported_model_gives_the_same_outputs_bit_for_bit(task, folder):
    x = torch.from_numpy(task.test)
    with torch.no_grad():
        assert torch.equal(loaded(folder)[0].module(x), task.target.module(x))


def test_the_exported_weights_have_the_same_digest(task, folder):
    assert loaded(folder)[0].weights_digest == task.target.weights_digest


def test_the_model_file_needs_torch_alone(task, folder):
    # -I: neither the current folder nor PYTHONPATH; the finder refuses madpipe wherever it is installed.
    program = (
        "import sys; sys.modules['madpipe'] = None; import runpy; "
        f"runpy.run_path({str(folder / 'model.py')!r})['build'](**{task.target.kwargs!r})"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_the_config_is_that_of_an_own_model(task, folder):
    assert loaded(folder)[1] == {
        "target": {
            "factory": "model.py:build",
            "kwargs": task.target.kwargs,
            "weights": "weights.safetensors",
            "output": task.target.output,
            "sites": ["*"],
        },
        "data": {"trusted": "trusted.npz", "key": "x"},
        "decomposition": {"method": "spd"},
        "tracking": {"experiment": task.name},
    }


def test_the_exported_rows_are_the_tasks(task, folder):
    with np.load(folder / "trusted.npz") as trusted, np.load(folder / "test.npz") as test:
        assert (trusted["x"] == task.trusted).all()
        assert (test["x"] == task.test).all()
        assert set(test.files) == {"x", "is_anomalous", *task.subsets}
    with np.load(folder / "agree.npz") as agree:
        assert (agree["x"] == task.agree).all()
        assert {name: agree[name].tolist() for name in agree.files if name != "x"} == {
            name: mask.tolist() for name, mask in task.agree_subsets.items()
        }


def test_a_task_without_agree_rows_has_no_such_file(task, tmp_path):
    export_task(replace(task, agree=None, agree_subsets={}, untrusted=None), tmp_path / "demo")
    assert not {"agree.npz", "untrusted.npz"} & {path.name for path in (tmp_path / "demo").iterdir()}


def test_an_existing_folder_is_refused_and_left_alone(task, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MissingFileError, match="is there already"):
        export_task(task, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
