"""A fit or decomposition that is stopped leaves no result; the same command goes on to the uninterrupted one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import madpipe
from madpipe.config.loading import load_config
from madpipe.pipeline.folder import digest, partial_folder
from madpipe.pipeline.workspace import open_workspace
from madpipe.workflows.decompose import decompose
from madpipe.workflows.fit import fit

STEPS = "decomposition.steps=600"
COMMAND = ["config.yaml", "-o", "result", "--set", STEPS, "--set", "tracking.experiment=interrupted"]
FINAL = {  # what must be the same to the byte
    "fit": [
        *(f"folds/{k}/decomposition/components.safetensors" for k in range(4)),
        "folds/0/involvement.safetensors",
        "ensemble/calibration.npz",
    ],
    "decompose": ["components/components.safetensors", "quality.json"],
}


@dataclass(frozen=True)
class Stopped:
    code: int
    talk: str
    names: list[str]  # in the user's folder
    run_status: str


@dataclass(frozen=True)
class Story:
    """What was seen of a command that was told to stop, then killed, then left in peace."""

    verb: str
    folder: Path
    noted_steps: int  # in the checkpoint that it left when told to stop
    terminated: Stopped
    killed: Stopped
    finished: Stopped


def start(folder: Path, verb: str, *options: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    words = [sys.executable, "-m", "madpipe", verb, *COMMAND, *options]
    return subprocess.Popen(words, cwd=folder, env=clean, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def checkpoint_path(folder: Path) -> Path:
    return partial_folder(folder / "result") / "checkpoints" / "0" / "last.ckpt"


def steps_in_checkpoint(folder: Path) -> int:
    return int(torch.load(checkpoint_path(folder), weights_only=True)["state_dict"]["step_count"])


def wait_for_new_checkpoint(folder: Path, process: "subprocess.Popen[str]", known: int) -> int:
    """The time of the checkpoint that was written after the one of time `known`."""
    last = checkpoint_path(folder)
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


@pytest.fixture(scope="module", params=["fit", "decompose"])
def story(request, write_own_model, fitted, tmp_path_factory) -> Story:
    folder = write_own_model(tmp_path_factory.mktemp("interrupted"))
    shutil.copy(fitted.folder / "mlflow.db", folder)  # with its tables made, which takes seconds
    seen, steps, checkpoint = [], [], 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start(folder, request.param)
        checkpoint = wait_for_new_checkpoint(folder, process, checkpoint)
        process.send_signal(number)
        seen.append(ending(folder, process))
        steps.append(steps_in_checkpoint(folder))
        checkpoint = checkpoint_path(folder).stat().st_mtime_ns
    return Story(request.param, folder, steps[0], *seen, ending(folder, start(folder, request.param)))


@pytest.mark.slow
def test_what_is_told_to_stop_ends_with_143_in_one_line(story):
    assert story.terminated.code == 143
    assert story.terminated.talk.splitlines()[-1] == "madpipe: stopped by SIGTERM."
    assert "Traceback" not in story.terminated.talk


@pytest.mark.slow
def test_it_leaves_a_checkpoint_of_the_step_it_stopped_at(story):
    assert 200 < story.noted_steps < 1000  # 200: that of the tenth round, after which it was told


@pytest.mark.slow
def test_its_run_is_called_killed(story):
    assert story.terminated.run_status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_what_was_stopped_leaves_no_result(story, how):
    stopped = getattr(story, how)
    assert "result" not in stopped.names
    assert "result.partial" in stopped.names


@pytest.mark.slow
def test_the_same_command_continues_in_the_same_run_and_cleans_up(story):
    assert story.killed.code == -signal.SIGKILL
    assert story.finished.code == 0, story.finished.talk
    assert "Continuing the interrupted training of the same config." in story.finished.talk
    assert story.finished.run_status == "FINISHED"
    assert "result" in story.finished.names
    assert "result.partial" not in story.finished.names


@pytest.mark.slow
def test_it_ends_at_the_bytes_of_one_that_was_never_stopped(story, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    config = load_config(folder / "config.yaml", [STEPS, "tracking.enabled=false"])
    verb = {"fit": fit, "decompose": decompose}[story.verb]
    verb(config, base=folder, output=folder / "result", report=lambda line: None)
    for name in FINAL[story.verb]:
        assert digest(folder / "result" / name) == digest(story.folder / "result" / name), name


@pytest.mark.slow
def test_a_time_limit_ends_with_5_and_the_same_command_continues_until_it_is_done(write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    options = ("--set", "tracking.enabled=false", "--set", "decomposition.steps=2", "--set")
    codes, talks = [], []
    for _ in range(2):
        process = start(folder, "decompose", *options, "trainer.max_time=00:00:00:00")
        talks.append(process.communicate(timeout=300)[1])
        codes.append(process.returncode)
    assert codes == [5, 0], talks
    assert talks[0].splitlines()[-1].startswith("madpipe: trainer.max_time: 00:00:00:00 is over at step 1 of 2, and")
    assert "Continuing the interrupted training of the same config." in talks[1]


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
