"""A fit that is stopped leaves no pipeline; the same command goes on and ends at the uninterrupted result."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

import madpipe
from madpipe.config.loading import load_config
from madpipe.pipeline.folder import digest, partial_folder
from madpipe.pipeline.workspace import open_workspace
from madpipe.workflows.fit import fit

STEPS = "decomposition.steps=1000"
COMMAND = ["fit", "config.yaml", "-o", "pipeline", "--set", STEPS, "--set", "tracking.experiment=interrupted"]


@dataclass(frozen=True)
class Stopped:
    code: int
    talk: str
    names: list[str]  # in the user's folder
    run_status: str


@dataclass(frozen=True)
class Story:
    """What was seen of a fit that was told to stop, then killed, then left in peace."""

    folder: Path
    terminated: Stopped
    killed: Stopped
    finished: Stopped


def start(folder: Path) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    words = [sys.executable, "-m", "madpipe", *COMMAND]
    return subprocess.Popen(words, cwd=folder, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_new_checkpoint(folder: Path, process: "subprocess.Popen[str]", known: int) -> int:
    """The time of the checkpoint that was written after the one of time `known`."""
    last = partial_folder(folder / "pipeline") / "checkpoints" / "0" / "last.ckpt"
    while process.poll() is None:
        if last.exists() and last.stat().st_mtime_ns > known:
            return last.stat().st_mtime_ns
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def ending(folder: Path, process: "subprocess.Popen[str]") -> Stopped:
    _, talk = process.communicate(timeout=300)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("interrupted").experiment_id])
    decompositions = [run for run in runs if run.data.tags["madpipe.kind"] == "decomposition"]
    assert len(decompositions) == 1
    return Stopped(
        process.returncode, talk, sorted(path.name for path in folder.iterdir()), decompositions[0].info.status
    )


@pytest.fixture(scope="module")
def story(write_own_model, fitted, tmp_path_factory) -> Story:
    folder = write_own_model(tmp_path_factory.mktemp("interrupted"))
    shutil.copy(fitted.folder / "mlflow.db", folder)  # with its tables made, which takes seconds
    seen, checkpoint = [], 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start(folder)
        checkpoint = wait_for_new_checkpoint(folder, process, checkpoint)
        process.send_signal(number)
        seen.append(ending(folder, process))
    return Story(folder, *seen, ending(folder, start(folder)))


@pytest.mark.slow
def test_a_fit_that_is_told_to_stop_ends_with_143_in_one_line(story):
    assert story.terminated.code == 143
    assert story.terminated.talk.splitlines()[-1] == "madpipe: stopped by SIGTERM."
    assert "Traceback" not in story.terminated.talk


@pytest.mark.slow
def test_its_run_is_called_killed(story):
    assert story.terminated.run_status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_a_stopped_fit_leaves_no_pipeline(story, how):
    stopped = getattr(story, how)
    assert "pipeline" not in stopped.names
    assert "pipeline.partial" in stopped.names


@pytest.mark.slow
def test_the_same_command_continues_in_the_same_run_and_cleans_up(story):
    assert story.killed.code == -signal.SIGKILL
    assert story.finished.code == 0, story.finished.talk
    assert "Continuing the interrupted training of the same config." in story.finished.talk
    assert story.finished.run_status == "FINISHED"
    assert "pipeline" in story.finished.names
    assert "pipeline.partial" not in story.finished.names


@pytest.mark.slow
def test_it_ends_at_the_bytes_of_a_fit_that_was_never_stopped(story, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    config = load_config(folder / "config.yaml", [STEPS, "tracking.enabled=false"])
    fit(config, base=folder, output=folder / "pipeline", report=lambda line: None)
    for name in ("decomposition/components.safetensors", "calibration.npz", "involvement.safetensors"):
        whole, resumed = (place / "pipeline" / "folds" / "0" / name for place in (folder, story.folder))
        assert digest(whole) == digest(resumed), name


def test_a_second_fit_into_the_same_output_is_refused_at_once(madpipe, write_own_model, tmp_path, monkeypatch):
    write_own_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["fit", "config.yaml", "-o", "it", "--set", "tracking.enabled=false"]
    with open_workspace(tmp_path / "it", {"another": "fit"}):
        refused = madpipe(*words)
    assert refused.code == 2
    assert refused.err == (
        f"madpipe: another process is writing {tmp_path / 'it'} now; wait for it, or choose another -o.\n"
    )


def test_what_another_config_left_is_cleared_away(write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    with open_workspace(folder / "it", {"another": "fit"}) as workspace:
        (workspace.checkpoints / "0").mkdir(parents=True)
    (workspace.checkpoints / "0" / "last.ckpt").write_bytes(b"of another network")
    config = load_config(folder / "config.yaml", ["decomposition.steps=20", "tracking.enabled=false"])
    said: list[str] = []
    fit(config, base=folder, output=folder / "it", report=said.append)
    assert not any("Continuing" in line for line in said)
    assert not (folder / "it.partial").exists()
