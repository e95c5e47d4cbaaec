"""A tracking server that goes away in the middle of a fit, for good or for a while, loses nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from madpipe.errors import TrackingError
from madpipe.workflows.sync import sync

SETTINGS = ("--set", "decomposition.components=4", "--set", "calibration.folds=1", "--set", "tracking.experiment=away")
pytestmark = pytest.mark.soak


def contents(uri: str) -> dict[str, Any]:
    """Everything in the experiment that must be there once."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("away")
    runs = client.search_runs([experiment.experiment_id])
    history = {
        (run.info.run_id, name): [
            (point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for run in runs
        for name in run.data.metrics
    }
    models = client.search_logged_models([experiment.experiment_id])
    versions = client.search_model_versions("name = 'away'")
    return {
        "runs": sorted(
            (r.info.run_id, r.info.run_name, r.info.status, r.info.start_time, r.info.end_time) for r in runs
        ),
        "params": {run.info.run_id: run.data.params for run in runs},
        "history": history,
        "models": sorted((model.model_id, model.name, str(model.status)) for model in models),
        "versions": sorted((version.version, version.run_id) for version in versions),
        "inputs": {run.info.run_id: _inputs(client.get_run(run.info.run_id)) for run in runs},
        "files": {run.info.run_id: files_of(client, run.info.run_id) for run in runs},
    }


def _inputs(run: Run) -> tuple[list[str], list[str]]:
    used = run.inputs
    return (
        sorted(f"{item.dataset.digest} {tag.value}" for item in used.dataset_inputs for tag in item.tags),
        [model.model_id for model in used.model_inputs],
    )


def files_of(client: MlflowClient, run_id: str, folder: str = "") -> list[str]:
    found: list[str] = []
    for item in client.list_artifacts(run_id, folder):
        found += files_of(client, run_id, item.path) if item.is_dir else [item.path]
    return sorted(found)


def of_kind(uri: str, kind: str) -> Run:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("away").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`madpipe.kind` = '{kind}' and params.seed = '0'")
    return client.get_run(run.info.run_id)  # what was searched for lacks the models it started from


@dataclass
class Story:
    """What was seen of a fit whose server was killed while it trained, and of sending what was kept."""

    uri: str
    folder: Path
    fit: Any = None
    kept: list[str] = field(default_factory=list)
    refused: str = ""
    sent: int = 0
    first: dict[str, Any] = field(default_factory=dict)
    again: dict[str, Any] = field(default_factory=dict)


def start_fit(folder: Path, uri: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"PYTHONPATH": str(Path(__file__).parents[2]), "NO_PROXY": "127.0.0.1"}
    words = ["fit", "config.yaml", "-o", "result", "--tracking-uri", uri, *SETTINGS, "--set", "decomposition.steps=400"]
    return subprocess.Popen(
        [sys.executable, "-m", "madpipe", *words, "--json"],
        cwd=folder,
        env=clean,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until_training(folder: Path, fit: "subprocess.Popen[str]") -> None:
    """Until a checkpoint says that the decomposition run is open and steps are being made."""
    while not list(folder.glob("result.partial/checkpoints/**/*.ckpt")):
        assert fit.poll() is None, fit.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def story(
    write_own_model: Callable[..., Path], mlflow_server: Any, fitted: Any, tmp_path_factory: Any
) -> Iterator[Story]:
    folder = write_own_model(tmp_path_factory.mktemp("away"))
    place = tmp_path_factory.mktemp("server")
    shutil.copy(fitted.folder / "mlflow.db", place)  # with its tables made, which takes seconds
    server = mlflow_server(place, f"sqlite:///{place / 'mlflow.db'}")
    server.start()
    fit = start_fit(folder, server.uri)
    wait_until_training(folder, fit)
    server.kill()
    out, err = fit.communicate(timeout=120)
    seen = Story(server.uri, folder, (fit.returncode, out, err))
    seen.kept = sorted(path.relative_to(folder).as_posix() for path in folder.glob("result.unsent/**/*"))
    shutil.copytree(folder / "result.unsent", folder / "copy.unsent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(TrackingError) as refusal:
            sync(folder / "result", None)
        seen.refused = str(refusal.value)
        server.start()
        seen.sent = sync(folder / "result", None).sent
        seen.first = contents(server.uri)
        sync(folder / "copy.unsent", None)
        seen.again = contents(server.uri)
        yield seen
    server.kill()


def test_the_fit_ends_with_0_and_says_in_one_line_what_is_kept_and_how_to_send_it(story):
    code, out, err = story.fit
    assert code == 0, err
    document = json.loads(out)
    assert document["unsent"] == str(story.folder / "result.unsent")
    assert document["model_uri"] is None
    assert err.count("Warning: cannot write to") == 1
    (line,) = [line for line in err.splitlines() if "The tracking store is away" in line]
    assert line.endswith("Send it later: madpipe sync result")


def test_what_is_kept_holds_no_pickle_and_no_trusted_row(story):
    names = {Path(name).name for name in story.kept}
    assert {"store.json", "journal.jsonl", "pipeline.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib")) or name == "trusted.npz"]


def test_while_the_server_is_away_sync_says_so_and_keeps_everything(story):
    assert story.refused.startswith(f"cannot reach the MLflow server {story.uri}: nothing listens there.")
    assert story.sent > 10


def test_after_sync_the_folder_is_gone_and_sending_again_finds_nothing(story, madpipe):
    assert not (story.folder / "result.unsent").exists()
    ended = madpipe("sync", story.folder / "result")
    assert (ended.code, ended.out) == (0, "0\n")
    assert "Nothing was kept" in ended.err


def test_both_runs_are_finished_and_linked(story):
    decomposition, detector = of_kind(story.uri, "decomposition"), of_kind(story.uri, "detector")
    assert [run.info.status for run in (decomposition, detector)] == ["FINISHED", "FINISHED"]
    assert detector.data.tags["madpipe.decomposition_run_id"] == decomposition.info.run_id
    made = [model.model_id for model in decomposition.outputs.model_outputs]
    assert [model.model_id for model in detector.inputs.model_inputs] == made


def test_every_step_is_there_with_the_time_at_which_it_was_made(story):
    run = of_kind(story.uri, "decomposition")
    history = MlflowClient(story.uri).get_metric_history(run.info.run_id, "train/total")
    assert [point.step for point in history] == sorted({point.step for point in history})
    assert len(history) == 20  # 400 steps in rounds of 20
    assert all(run.info.start_time <= point.timestamp <= run.info.end_time for point in history)
    assert {"train", "quality"} <= {name.partition("/")[0] for name in run.data.metrics}


def test_params_artifacts_and_data_are_those_of_a_fit_that_nothing_disturbed(story):
    detector = of_kind(story.uri, "detector")
    assert {"seed", "data.name", "decomposition.method", "detector.name"} <= detector.data.params.keys()
    assert {"config/resolved.yaml", "splits/splits.npz"} <= set(story.first["files"][detector.info.run_id])
    assert len(detector.inputs.dataset_inputs) == 3
    assert "madpipe score" in detector.data.tags["mlflow.note.content"]


def test_the_registered_version_scores_as_the_folder_does(story, madpipe):
    assert [int(version) for version, _ in story.first["versions"]] == [1]
    words = ("score", story.folder / "test.npz", "--tracking-uri", story.uri, "--trust-code", "--pipeline")
    first = madpipe(*words, "models:/away@champion", "-o", story.folder / "a.csv")
    assert first.code == 0, first.err
    madpipe(*words, story.folder / "result", "-o", story.folder / "b.csv")
    assert (story.folder / "a.csv").read_bytes() == (story.folder / "b.csv").read_bytes()


def test_sending_twice_duplicates_nothing(story):
    assert story.again == story.first
    assert len(story.first["runs"]) == 2
    assert sorted(name for _, name, _ in story.first["models"]) == ["decomposition", "pipeline"]
    assert {status for _, _, status in story.first["models"]} == {"READY"}


def test_with_spool_a_fit_begins_without_a_server_and_is_sent_when_there_is_one(
    story, write_own_model, madpipe, tmp_path
):
    folder = write_own_model(tmp_path)
    words = (
        folder / "config.yaml",
        "-o",
        folder / "it",
        *SETTINGS,
        "--set",
        "decomposition.steps=40",
        "--set",
        "seed=1",
    )
    nowhere = ("--tracking-uri", "http://127.0.0.1:9")
    refused = madpipe("fit", *words, *nowhere)
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "--spool" in refused.err
    begun = madpipe("fit", *words, *nowhere, "--spool", "--json")
    assert begun.code == 0, begun.err
    assert json.loads(begun.out)["run_id"] is None
    sent = madpipe("sync", folder / "it", "--tracking-uri", story.uri, "--json")
    assert sent.code == 0, sent.err
    assert json.loads(sent.out)["address"] == story.uri
    versions = MlflowClient(story.uri).get_registered_model("away").aliases
    assert {name: int(version) for name, version in versions.items()} == {"candidate": 2, "champion": 1}
