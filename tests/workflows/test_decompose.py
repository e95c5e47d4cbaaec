"""`decompose` leaves a folder and one run; `fit` takes it up by path or address, and ranks by rows not trained on."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from madpipe.components.checkpoint import load_tensors
from madpipe.config.loading import load_config
from madpipe.pipeline.decomposition_folder import DecompositionFolder
from madpipe.pipeline.folder import DECOMPOSITION, digest, folder_digest, read_facts
from madpipe.pipeline.scorer import Pipeline
from madpipe.tracking.model_registry import local_decomposition
from madpipe.workflows.decompose import DecomposeResult, decompose
from madpipe.workflows.fit import FitResult, fit

QUICK = ("decomposition.steps=20", "decomposition.components=4", "decomposition.variants=[{name: only}]")
UNTRACKED = (*QUICK, "tracking.enabled=false")


@pytest.fixture(scope="module")
def client(decomposed) -> MlflowClient:
    return MlflowClient(decomposed.store_uri)


@pytest.fixture(scope="module")
def run(decomposed, client) -> Run:
    return client.get_run(facts(decomposed.path)["run_id"])


def facts(folder: Path) -> dict[str, Any]:
    return read_facts(folder, DECOMPOSITION)


def seeds_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "quality.json").read_text())["quality"]


def artifacts(run: Run) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


# One run


def test_a_decomposition_leaves_one_finished_run(client, run):
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"
    assert run.data.tags["madpipe.kind"] == "decomposition"
    assert run.data.params["decomposition.seeds"] == "3"
    assert run.data.params["decomposition.C"] == "4"


def test_metrics_are_the_best_seeds_and_beside_them_every_seeds(decomposed, run):
    metrics = run.data.metrics
    assert {name.partition("/")[0] for name in metrics} == {"train", "quality", "selection", "seed0", "seed1", "seed2"}
    for seed in seeds_of(decomposed.path):
        for variant, own in seed["variants"].items():
            assert metrics[f"seed{seed['seed']}/l0/{variant}"] == own["l0"]
    best = seeds_of(decomposed.path)[facts(decomposed.path)["best_seed"]]
    assert metrics["quality/reconstruction_importance/output"] == best["reconstruction"]


def test_the_choice_and_all_criteria_are_logged(decomposed, run):
    lengths = [seed["description_length"] for seed in seeds_of(decomposed.path)]
    logged = [run.data.metrics[f"selection/description_length/seed{k}"] for k in range(3)]
    assert logged == lengths
    assert run.data.metrics["selection/seed"] == facts(decomposed.path)["best_seed"] == lengths.index(min(lengths))


def test_figures_and_quality_are_artifacts(decomposed, run):
    drawn = {path.name for path in (decomposed.path / "figures").iterdir()}
    names = {"alive_spectrum", "co_importance", "importances", "components-0", "components-2"}
    assert drawn == {"reconstruction.png", *(f"{name}-{v}.png" for name in names for v in ("output", "hidden"))}
    for name in drawn:
        stored = artifacts(run) / "figures" / name
        assert stored.read_bytes() == (decomposed.path / "figures" / name).read_bytes()
        assert stored.read_bytes().startswith(b"\x89PNG")
    assert (artifacts(run) / "quality/quality.json").read_bytes() == (decomposed.path / "quality.json").read_bytes()


def test_the_folder_can_be_had_by_its_run_and_by_its_model(decomposed, run):
    (made,) = [output.model_id for output in run.outputs.model_outputs]
    for address in (f"runs:/{run.info.run_id}/decomposition", f"runs:/{run.info.run_id}", f"models:/{made}"):
        fetched = DecompositionFolder.open(local_decomposition(address, decomposed.store_uri), address)
        assert fetched.digest == folder_digest(decomposed.path, DECOMPOSITION)


def test_no_trusted_row_is_in_the_folder_or_in_what_was_logged(decomposed):
    with np.load(decomposed.folder / "trusted.npz") as stored:
        rows = [row.tobytes() for row in stored["x"]]
    made = [
        path for place in ("it", "mlartifacts") for path in (decomposed.folder / place).rglob("*") if path.is_file()
    ]
    assert len(made) > 30
    assert not [path for path in made if any(row in path.read_bytes() for row in rows)]


def test_without_tracking_there_is_no_run(write_own_model, tmp_path, monkeypatch):
    monkeypatch.chdir(write_own_model(tmp_path))
    result, _ = decompose_own(tmp_path, None, *UNTRACKED)
    assert result.decomposition == tmp_path / "my-model-spd-seed0-decomposition"
    assert (result.run_id, result.model_uri, facts(result.decomposition)["run_id"]) == (None, None, None)
    assert not list(tmp_path.glob("mlflow*"))


# Taken up by fit


def decompose_own(folder: Path, output: str | None, *settings: str) -> tuple[DecomposeResult, list[str]]:
    said: list[str] = []
    config = load_config(folder / "config.yaml", settings)
    place = folder / output if output else None
    return decompose(config, base=folder, output=place, report=said.append), said


def fit_own(folder: Path, output: str, *settings: str, **options: Any) -> tuple[FitResult, list[str]]:
    said: list[str] = []
    config = load_config(folder / "config.yaml", settings)
    return fit(config, base=folder, output=folder / output, report=said.append, **options), said


@dataclass(frozen=True)
class TakenUp:
    folder: Path
    result: FitResult
    said: list[str]
    store_uri: str


@pytest.fixture(scope="module")
def taken_up(decomposed, write_own_model, tmp_path_factory) -> TakenUp:
    """By address, in another experiment of a copy of the store."""
    folder = write_own_model(tmp_path_factory.mktemp("taken"))
    shutil.copy(decomposed.folder / "mlflow.db", folder)
    store_uri = f"sqlite:///{folder / 'mlflow.db'}"
    address = f"runs:/{facts(decomposed.path)['run_id']}/decomposition"
    settings = [f"decomposition={{from: '{address}', select: 1}}", "tracking.experiment=taken"]
    return TakenUp(folder, *fit_own(folder, "pipeline", *settings, tracking_uri=store_uri), store_uri)


def test_the_detector_run_is_linked_to_the_run_of_the_decomposition(taken_up, decomposed, run):
    client = MlflowClient(taken_up.store_uri)
    experiment = client.get_experiment_by_name("taken").experiment_id
    (found,) = client.search_runs([experiment])
    detector = client.get_run(found.info.run_id)
    assert detector.data.tags["madpipe.kind"] == "detector"
    assert detector.data.tags["madpipe.decomposition_run_id"] == run.info.run_id == taken_up.result.decomposition_run_id
    assert detector.data.tags["madpipe.decomposition_digest"] == folder_digest(decomposed.path, DECOMPOSITION)
    made = [output.model_id for output in run.outputs.model_outputs]
    assert [used.model_id for used in detector.inputs.model_inputs] == made
    shared = {name: value for name, value in run.data.params.items() if name.startswith("decomposition.")}
    assert detector.data.params.items() >= shared.items()


def test_the_seed_asked_for_is_in_the_pipeline_bit_for_bit(taken_up, decomposed):
    stored = load_tensors(taken_up.result.pipeline / "folds/0/decomposition/components.safetensors")
    whole = load_tensors(decomposed.path / "components/components.safetensors")
    for name in ("model.V.0", "model.U.1"):
        assert torch.equal(stored[name].float(), whole[name][2:4])  # seed 1 of two variants
    origin = read_facts(taken_up.result.pipeline)["decomposition"]
    assert origin == {"seeds": 3, "used": [1], "taken_from": folder_digest(decomposed.path, DECOMPOSITION)}


def test_nothing_it_was_trained_on_is_a_calibration_row(taken_up, decomposed):
    assert (taken_up.result.pipeline / "splits.npz").read_bytes() == (decomposed.path / "splits.npz").read_bytes()
    assert Pipeline.load(taken_up.result.pipeline).calibration_size == 99
    assert taken_up.said == [
        "trusted: 300 trusted rows, 171 to fit, 30 to validate, 99 to calibrate; sites 0, 2.",
        f"Taking the spd decomposition runs:/{facts(decomposed.path)['run_id']}/decomposition, seed 1 of 0 to 2; "
        "nothing is trained.",
    ]


def test_the_recorded_split_is_used_whatever_this_config_would_split(decomposed, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    settings = [f"decomposition={{from: '{decomposed.path}'}}", "tracking.enabled=false", "seed=7"]
    result, _ = fit_own(folder, "p", *settings, "calibration.calibration_size=150")
    assert (result.pipeline / "splits.npz").read_bytes() == (decomposed.path / "splits.npz").read_bytes()
    assert read_facts(result.pipeline)["decomposition"]["used"] == [facts(decomposed.path)["best_seed"]]


def test_with_other_trusted_rows_a_new_split_is_made_and_the_doubt_is_told(decomposed, write_own_model, tmp_path):
    folder = write_own_model(tmp_path, rows=60)
    shutil.copytree(decomposed.path, folder / "it")
    result, said = fit_own(folder, "p", "decomposition={from: it}", "tracking.enabled=false")
    assert "Warning: it was trained on other trusted rows than these. Its own rows are unknown here" in said[2]
    assert Pipeline.load(result.pipeline).calibration_size == 15  # one decomposition, one split


# The same training as in fit


def test_it_trains_what_fit_would_train_bit_for_bit_and_fit_tells_its_choice(taken_up, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    settings = (*UNTRACKED, "decomposition.seeds=2", "calibration.folds=1")
    made, _ = decompose_own(folder, "d", *settings)
    tracked = ("tracking.enabled=true", "tracking.experiment=seeds")
    fitted, said = fit_own(folder, "p", *settings, *tracked, tracking_uri=taken_up.store_uri)
    assert (fitted.pipeline / "splits.npz").read_bytes() == (made.decomposition / "splits.npz").read_bytes()
    whole = load_tensors(made.decomposition / "components/components.safetensors")
    chosen = load_tensors(fitted.pipeline / "folds/0/decomposition/components.safetensors")
    assert torch.equal(chosen["model.V.0"].float(), whole["model.V.0"][made.best : made.best + 1])
    assert said[1].startswith(f"Of 2 seeds trained, seed {made.best} is used: it has the least description length")
    assert read_facts(fitted.pipeline)["decomposition"] == {"seeds": 2, "used": [made.best], "taken_from": None}
    metrics = MlflowClient(taken_up.store_uri).get_run(fitted.decomposition_run_id).data.metrics
    lengths = [seed["description_length"] for seed in seeds_of(made.decomposition)]
    assert [metrics[f"selection/description_length/seed{k}"] for k in range(2)] == pytest.approx(lengths)
    assert metrics["selection/seed"] == made.best


def test_below_200_rows_the_first_fold_is_trained_and_told(write_own_model, tmp_path):
    made, said = decompose_own(write_own_model(tmp_path, rows=60), "d", *UNTRACKED)
    assert said[0] == (
        "trusted: 60 trusted rows, 36 to train on, 9 to validate, 15 kept for the calibration of a later fit; "
        "sites 0, 2."
    )
    assert "a fit that takes this up ranks inputs among those 15 alone" in said[1]
    assert DecompositionFolder.open(made.decomposition, "d").split().row_count == 60


def test_a_decomposition_of_known_mechanisms_says_what_it_recovers(tmp_path):
    (tmp_path / "x.yaml").write_text("task: {name: superposition, rows: 200}\n")
    settings = (*UNTRACKED, "decomposition.seeds=2")
    config = load_config(tmp_path / "x.yaml", settings)
    result = decompose(config, base=tmp_path, output=tmp_path / "d", report=lambda line: None)
    for document in seeds_of(result.decomposition):
        assert document["mechanisms"] == 10
        assert 0 <= document["matched"] <= 10
        assert document["broken"] is (document["matched"] < 10)
        assert "variants" not in document
        assert set(document["sites"]) == {"linear1", "linear2"}


# Interrupted


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    from madpipe.decomposition import training

    real: Callable[..., Any] = training.take_step

    def stopping(*arguments: Any) -> Any:
        if arguments[3] == steps:  # (method, optimizer, batch, step, ...)
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "take_step", stopping)


def test_an_interrupted_decomposition_is_resumed_and_ends_at_the_same_bytes(write_own_model, tmp_path, monkeypatch):
    folder = write_own_model(tmp_path)
    settings = (*UNTRACKED, "decomposition.steps=220")
    with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
        interrupt_after(patched, 210)
        decompose_own(folder, "d", *settings)
    assert not (folder / "d").exists()
    assert (folder / "d.partial" / "checkpoints" / "0" / "last.ckpt").exists()
    resumed, said = decompose_own(folder, "d", *settings)
    assert said[1] == "Continuing the interrupted training of the same config."
    assert not (folder / "d.partial").exists()
    whole, _ = decompose_own(folder, "whole", *settings)
    for name in ("components/components.safetensors", "quality.json", "figures/reconstruction.png"):
        assert digest(resumed.decomposition / name) == digest(whole.decomposition / name)
