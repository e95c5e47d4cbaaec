"""`runs`, `evaluate --log`, `promote` and `compare` on a real store with a real fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from madpipe.pipeline.folder import folder_digest


@pytest.fixture(scope="module")
def store(fitted, tmp_path_factory) -> tuple[Path, str]:
    """A copy of the store in which the own model was fitted, and its address."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copy(fitted.folder / "mlflow.db", folder)
    return folder, f"sqlite:///{folder / 'mlflow.db'}"


def listed(madpipe, uri: str, *words: object) -> list[dict]:
    ended = madpipe("runs", "--json", "--tracking-uri", uri, *words)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["pipelines"]


def test_a_fit_is_listed_with_its_figures(madpipe, fitted):
    (row,) = listed(madpipe, fitted.store_uri)
    assert row["name"] == "spd-seed0"
    assert row["run_id"] == fitted.document["run_id"]
    assert (row["experiment"], row["data"], row["method"]) == ("my-model", "trusted", "spd")
    assert (row["calibration_size"], row["evaluation"]) == (99, None)
    assert row["versions"] == ["my-model/1 @candidate @champion"]
    assert row["folder"] == str(fitted.pipeline)


def test_an_evaluation_shows_beside_its_pipeline_once_it_is_logged(madpipe, fitted, store):
    uri = store[1]
    words = ["evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--tracking-uri", uri, "--json"]
    assert madpipe(*words).code == 0
    assert listed(madpipe, uri)[0]["evaluation"] is None
    ended = madpipe(*words, "--log")
    assert ended.code == 0, ended.err
    figures, shown = json.loads(ended.out)["default"], listed(madpipe, uri)[0]["evaluation"]
    for name in ("auroc", "tpr_at_1", "fpr_at_nominal_1"):
        assert shown[name] == figures[name]
    assert shown["data"] == "test"
    assert "digits" not in madpipe("runs", "--tracking-uri", uri).out
    assert f"{figures['auroc']:.3f}" in madpipe("runs", "--tracking-uri", uri).out


def test_a_logged_evaluation_is_tied_to_its_pipeline_and_model(madpipe, fitted, store):
    uri = store[1]
    client = MlflowClient(uri)
    madpipe("evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--tracking-uri", uri, "--log")
    experiment = client.get_experiment_by_name("my-model").experiment_id
    run = client.search_runs([experiment], "tags.`madpipe.kind` = 'evaluation'")[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["madpipe.pipeline_digest"] == folder_digest(fitted.pipeline)
    assert run.data.params["data.anomalous"] == "50"
    assert {name.partition("/")[0] for name in run.data.metrics} == {"eval", "members"}
    (used,) = client.get_run(run.info.run_id).inputs.model_inputs
    on_model = {metric.key for metric in client.get_logged_model(used.model_id).metrics}
    assert {"eval/auroc", "eval/tpr_at_1"} <= on_model


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--filter", "SPD"], 1),
        (["--filter", "champion", "--filter", "trusted"], 1),
        (["--filter", "vpd"], 0),
        (["--experiment", "my-model", "--limit", 1], 1),
        (["--experiment", "Default"], 0),
    ],
)
def test_rows_are_chosen_by_words_experiment_and_number(madpipe, fitted, words, count):
    assert len(listed(madpipe, fitted.store_uri, *words)) == count


def test_an_unknown_experiment_ends_with_2_and_names_the_nearest(madpipe, fitted):
    ended = madpipe("runs", "--experiment", "my-modle", "--tracking-uri", fitted.store_uri)
    assert (ended.code, ended.out) == (2, "")
    assert "no experiment named 'my-modle'. Did you mean 'my-model'?" in ended.err


@pytest.mark.parametrize("command", [["runs"], ["promote", "my-model", "1", "--trust-code"]])
def test_looking_makes_no_store(madpipe, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ended = madpipe(*command)
    assert ended.code == 2
    assert f"no MLflow store at {tmp_path}/mlflow.db" in ended.err
    assert not list(tmp_path.iterdir())


def test_promote_says_who_was_champion_and_who_is(madpipe, store):
    words = ["promote", "my-model", "@candidate", "--tracking-uri", store[1]]
    refused = madpipe(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "--trust-code" in refused.err
    ended = madpipe(*words, "--trust-code")
    assert (ended.code, ended.out) == (0, "my-model: champion 1 -> 1\n")
    assert "models:/my-model@champion" in ended.err
    document = json.loads(madpipe(*words, "--trust-code", "--json").out)
    assert document == {"name": "my-model", "version": 1, "previous": 1, "example_rows": 2}


def test_promote_wants_a_name_and_no_address(madpipe, store):
    ended = madpipe("promote", "models:/my-model", "1", "--tracking-uri", store[1], "--trust-code")
    assert ended.code == 2
    assert "is no registered name" in ended.err


# compare


@pytest.fixture
def compared(madpipe, fitted, cross_fitted):
    def run(*words: object, second: object = cross_fitted):
        return madpipe("compare", fitted.pipeline, second, fitted.folder / "test.npz", "--key", "x", *words)

    return run


def test_a_pipeline_agrees_with_itself(compared, fitted):
    document = json.loads(compared("--json", second=fitted.pipeline).out)
    assert document["flags"]["agreement"] == 1
    assert document["flags"]["only_first"] == document["flags"]["only_second"] == 0
    assert document["rank_correlation"] == pytest.approx(1)
    assert document["most_different"] == []
    assert "separation" not in document


def test_two_pipelines_are_told_apart_on_labelled_inputs(compared, fitted, tmp_path):
    ended = compared("--label", "is_anomalous", "--json", "-o", tmp_path / "both.parquet")
    assert ended.code == 0, ended.err
    document, table = json.loads(ended.out), pd.read_parquet(tmp_path / "both.parquet")
    assert document["rows"] == len(table) == 150
    assert document["calibration_size"] == [99, 60]
    first, second = table.first_flagged, table.second_flagged
    assert document["flags"]["both"] == int((first & second).sum())
    assert document["flags"]["agreement"] == pytest.approx(float((first == second).mean()))
    ratio = np.abs(np.log(table.first_p_value / table.second_p_value))
    assert document["most_different"][0]["input_id"] == table.input_id[int(ratio.argmax())]
    for figures in (document["separation"][name] for name in ("auroc", "tpr_at_1", "tpr_at_5")):
        assert figures["difference"] == pytest.approx(figures["second"] - figures["first"])
        low, high = figures["difference_interval"]
        assert low <= high
    assert table.is_anomalous.sum() == 50


def test_what_is_compared_is_what_score_says(compared, madpipe, fitted, tmp_path):
    compared("-o", tmp_path / "both.csv")
    madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "-o", tmp_path / "scores.csv")
    both, scores = pd.read_csv(tmp_path / "both.csv"), pd.read_csv(tmp_path / "scores.csv")
    assert both.first_anomaly_score.to_numpy() == pytest.approx(scores.anomaly_score.to_numpy(), rel=1e-6)
    assert both.first_p_value.tolist() == scores.p_value.tolist()


def test_the_comparison_is_printed_for_a_person(compared):
    ended = compared("--label", "is_anomalous", "--alpha", "0.05")
    assert "flagged at p <= 0.05" in ended.out
    assert "rank correlation" in ended.out
    assert "95 % interval" in ended.out
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-o", "both.txt"], 2, "the name must end in .parquet, .csv, .jsonl"),
        (["-o", "nowhere/both.csv"], 2, "there is no folder nowhere"),
        (["--label", "x"], 4, "is no label"),
        (["--label", "is_anomalos"], 2, "Did you mean 'is_anomalous'?"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(compared, tmp_path, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    ended = compared(*words)
    assert ended.code == code
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
