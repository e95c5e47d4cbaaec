"""The ways of the README to start several processes: torchrun, one command on every node, and SLURM's environment."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak
DECOMPOSE = ("-m", "madpipe", "decompose", "config.yaml", "--json", "--set", "tracking.enabled=false")
SMALL = ("--set", "decomposition.steps=20", "--set", "decomposition.components=4")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run(folder: Path, commands: list[list[str]], settings: list[dict[str, str]]) -> dict:
    """Run the commands side by side, each with its own settings; the document that the first of them prints."""
    launchers = ("MLFLOW_", "LOCAL_RANK", "NODE_RANK", "MASTER_", "WORLD_SIZE", "SLURM_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    clean["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    started = [
        subprocess.Popen(words, cwd=folder, env=clean | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words, own in zip(commands, settings, strict=True)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), "".join(said for _, said in ended)
    return json.loads(ended[0][0])


@pytest.fixture(scope="module")
def alone(write_own_model, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with the own model, and what one process makes of it."""
    folder = write_own_model(tmp_path_factory.mktemp("own"))
    return folder, run(folder, [[sys.executable, *DECOMPOSE, *SMALL, "-o", "alone"]], [{}])


@pytest.mark.parametrize("way", ["torchrun", "nodes", "slurm"])
def test_two_processes_end_at_the_result_of_one(alone: tuple[Path, dict], way: str):
    folder, expected = alone
    words = [sys.executable, *DECOMPOSE, *SMALL, "-o", way]
    found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    if way == "torchrun":
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--master-port",
            free_port(),
        ]
        made = run(folder, [[*launcher, *words[1:], "--set", "trainer.devices=2"]], [{}])
    elif way == "nodes":
        ranks = [{**found, "NODE_RANK": str(rank)} for rank in range(2)]
        made = run(folder, [[*words, "--set", "trainer.num_nodes=2"]] * 2, ranks)
    else:
        job = {
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NAME": "madpipe-decompose",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
        }
        ranks = [
            {**found, **job, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r), "SLURM_NODEID": "0"} for r in range(2)
        ]
        made = run(folder, [[*words, "--set", "trainer.devices=2"]] * 2, ranks)
    (one,), (two,) = expected["quality"], made["quality"]
    for variant, figures in one["variants"].items():
        assert two["variants"][variant] == pytest.approx(figures, rel=1e-3)
    assert not list(folder.glob("*.partial"))
