"""Several processes that train one decomposition end at the result of one process."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import madpipe
from madpipe.components.share import Share
from madpipe.config.schema import TrainerConfig
from madpipe.decomposition.optimisation import draw_batch, refuse_uneven_shares
from madpipe.decomposition.processes import agreed, alone, average_in_place, highest_of_all, mean_of_all, rows_of_all
from madpipe.errors import ConfigError
from madpipe.workflows.following import follows

CASES = {
    "spd": {
        "mask_shares": [0.3, 0.4, 0.3],
        "alive_after": 10,
        "frequency_coefficient": 0.1,
        "layerwise_coefficient": 1,
    },
    "apd": {"components": 4, "rank": 2, "top_k": 1.5, "alive_share": 0.4, "alive_after": 10},
    "vpd": {"sources": 8},
}
SCRIPT = """
import json, sys
from pathlib import Path

import torch

from madpipe.components.sites import find_sites
from madpipe.decomposition.processes import own_share
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.decomposition.training import train
from madpipe.registry import METHODS
from madpipe.targets import mlp

folder, devices, cases = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
for name, settings in cases.items():
    torch.manual_seed(0)
    target, rows = mlp.build([5, 7, 3]).eval().requires_grad_(False), torch.randn(60, 5)
    method_class = METHODS.load(name)
    config = method_class.Config(steps=50, batch_size=16, **settings)
    sites, instances = find_sites(target), len(method_class.variants(config))
    method = method_class(target, sites, config, instances)
    method.initialise(trusted_statistics(target, sites, rows, "categorical"), torch.Generator().manual_seed(0))
    curve = []
    train(
        method,
        rows,
        [torch.arange(60)] * instances,
        seed=3,
        checkpoints=folder / name,
        trainer_options={"accelerator": "cpu", "devices": devices},
        progress=lambda step, terms: curve.append(dict(terms)),
    )
    torch.save({"curve": curve, "state": method.state_dict()}, folder / f"{name}-{own_share().rank}.pt")
"""


@dataclass(frozen=True)
class Trainings:
    """Folders in which one process and two have left what they trained: METHOD-RANK.pt."""

    one: Path
    two: Path


def environment() -> dict[str, str]:
    ours = ("MLFLOW_", "LOCAL_RANK", "NODE_RANK", "MASTER_", "WORLD_SIZE")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return clean | {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory) -> Trainings:
    folders = []
    for devices in (1, 2):
        folder = tmp_path_factory.mktemp(f"devices{devices}")
        (folder / "script.py").write_text(SCRIPT)
        words = [sys.executable, "script.py", ".", str(devices), json.dumps(CASES)]
        done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        folders.append(folder)
    return Trainings(*folders)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_follow_the_loss_curve_of_one(trainings, name: str):
    one, two = (torch.load(folder / f"{name}-0.pt")["curve"] for folder in (trainings.one, trainings.two))
    assert len(one) == 3  # rounds of 20, 20 and 10 steps
    for alone_, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone_, rel=1e-3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_at_the_weights_of_one(trainings, name: str):
    one, two = (torch.load(folder / f"{name}-0.pt")["state"] for folder in (trainings.one, trainings.two))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4, msg=lambda said, key=key: f"{key}: {said}")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_both_processes_hold_the_same_bits(trainings, name: str):
    first, second = (torch.load(trainings.two / f"{name}-{rank}.pt")["state"] for rank in (0, 1))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
def test_decompose_in_two_processes_is_one_command_with_one_result(write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    results = []
    for devices in (1, 2):
        words = ["decompose", "config.yaml", "-o", f"on{devices}", "--json", "--set", "decomposition.steps=40"]
        words += ["--set", "tracking.enabled=false", "--set", f"trainer.devices={devices}"]
        done = subprocess.run(
            [sys.executable, "-m", "madpipe", *words],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        assert "sync_dist" not in done.stderr
        (quality,) = json.loads(done.stdout)["quality"]  # one document on stdout: the second process is silent
        results.append(quality["variants"])
    assert not list(folder.glob("*.partial"))
    for variant, figures in results[0].items():
        assert results[1][variant] == pytest.approx(figures, rel=1e-3)


def test_shares_are_the_whole_in_order():
    whole = torch.randn(2, 8, 3)
    assert torch.equal(torch.cat([Share(rank, 4).of(whole) for rank in range(4)], 1), whole)


def test_a_share_draws_its_part_of_what_one_process_draws():
    draws = [Share(rank, 2).uniform((3, 4, 5), torch.Generator().manual_seed(7), torch.float32) for rank in range(2)]
    whole = torch.rand(3, 8, 5, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.cat(draws, 1), whole)


def test_processes_draw_the_batch_of_one_process_between_them(start, small_mlp, rows):
    method = start("spd", small_mlp, rows)
    instances = [torch.arange(60)] * 2
    whole = draw_batch(method, rows, instances, 5, 1).x.view(2, 16, 5)
    parts = [draw_batch(method, rows, instances, 5, 1, Share(rank, 4)).x.view(2, 4, 5) for rank in range(4)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    refuse_uneven_shares(12, 3)
    with pytest.raises(ConfigError, match=r"decomposition.batch_size: 10 rows cannot be shared evenly by 3 processes"):
        refuse_uneven_shares(10, 3)


def test_alone_everything_stays_as_it_is():
    own = torch.randn(2, 3, requires_grad=True)
    before = own.detach().clone()
    average_in_place([own])
    assert alone()
    assert torch.equal(own, before)
    assert mean_of_all(own) is own
    assert highest_of_all(own) is own
    assert rows_of_all(own) is own
    assert agreed(True, own.device)
    assert not agreed(False, own.device)


@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [
        (1, {"LOCAL_RANK": "1"}, False),  # a single process, whatever another launcher left behind
        (2, {}, False),
        (2, {"LOCAL_RANK": "0", "NODE_RANK": "0"}, False),
        (2, {"LOCAL_RANK": "1", "NODE_RANK": "0"}, True),
        (2, {"NODE_RANK": "1"}, True),
        (2, {"RANK": "0", "LOCAL_RANK": "0"}, False),
        (2, {"RANK": "2", "LOCAL_RANK": "0"}, True),  # torchrun's, on the second machine
        (2, {"SLURM_PROCID": "3"}, True),
    ],
)
def test_all_but_the_first_of_several_processes_follow(devices, environment, expected):
    assert follows(TrainerConfig(devices=devices), environment) is expected
