"""Drift in MLflow: the course of the watch is a metric over inputs, its picture an artifact."""

import shutil

import numpy as np
import pytest
from mlflow import MlflowClient

from madpipe.workflows.score import score
from madpipe.workflows.score_folder import score_folder


@pytest.fixture
def logged(fitted, own_rows, tmp_path):
    """A run of 60 ordinary inputs and 40 anomalous ones, scored with a watch, in a store of its own."""
    shutil.copy(fitted.folder / "mlflow.db", tmp_path)  # with its tables made, which takes seconds
    np.save(tmp_path / "new.npy", np.concatenate([own_rows(60, 80), own_rows(40, 81, anomalous=True)]))
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    said: list[str] = []
    result = score(
        str(fitted.pipeline),
        [tmp_path / "new.npy"],
        output=str(tmp_path / "scores.csv"),
        monitor=tmp_path / "drift.npz",
        log=True,
        tracking_uri=store,
        report=said.append,
    )
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("my-model")
    (run,) = client.search_runs([experiment.experiment_id], "tags.madpipe.kind = 'score'")
    return result, client, run


def test_a_folder_is_logged_as_one_run(fitted, own_rows, tmp_path):
    shutil.copy(fitted.folder / "mlflow.db", tmp_path)
    (tmp_path / "incoming").mkdir()
    for i in range(2):
        np.save(tmp_path / "incoming" / f"{i}.npy", own_rows(20, 85 + i))
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):  # the second finds nothing to score, and logs nothing
        score_folder(
            str(fitted.pipeline),
            [tmp_path / "incoming"],
            output=tmp_path / "scores",
            log=True,
            tracking_uri=store,
            report=lambda line: None,
        )
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("my-model")
    (run,) = client.search_runs([experiment.experiment_id], "tags.madpipe.kind = 'score'")
    assert run.data.params["data.name"] == "0.npy, 1.npy"
    assert (run.data.metrics["score/rows"], run.data.metrics["score/files"]) == (40, 2)


def test_the_course_of_the_watch_is_logged(logged):
    result, client, run = logged
    history = client.get_metric_history(run.info.run_id, "monitor/log10_evidence")
    assert [point.step for point in history] == list(range(101))
    assert [point.value for point in history] == result.drift.history.log10_evidence
    assert run.data.metrics["monitor/alarm"] == 1
    assert run.data.metrics["monitor/seen"] == 100
    assert "figures/drift.png" in [item.path for item in client.list_artifacts(run.info.run_id, "figures")]
    assert 60 < result.drift.alarmed_at <= 100
