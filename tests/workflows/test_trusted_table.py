"""Trusted data from a table: every later table is read by the names of its columns, whatever their order."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from madpipe.components.checkpoint import load_json
from madpipe.config.loading import load_config
from madpipe.errors import UnknownNameError
from madpipe.pipeline.folder import read_facts, write_manifest
from madpipe.pipeline.scorer import Pipeline
from madpipe.tracking.connection import quiet
from madpipe.tracking.packaging import write_model
from madpipe.workflows.fit import fit

NAMES = ["age", "income", "debt", "height", "weight", "never"]
SHUFFLED = ["never", "debt", "age", "weight", "income", "height"]


@pytest.fixture(scope="module")
def table_fitted(once, write_own_model, own_rows) -> Path:
    """A pipeline fitted on trusted.csv, whose columns are NAMES; beside it test.npz and test.csv, in another order."""

    def fill(folder: Path) -> None:
        write_own_model(folder)
        pd.DataFrame(own_rows(300, 1), columns=NAMES).to_csv(folder / "trusted.csv", index=False)
        with np.load(folder / "test.npz") as test:
            table = pd.DataFrame(test["x"], columns=NAMES)[SHUFFLED]
            table.insert(2, "is_anomalous", test["is_anomalous"])
        table.assign(name="someone").to_csv(folder / "test.csv", index=False)
        settings = ["data.trusted=trusted.csv", "data.key=null", "decomposition.steps=40", "tracking.enabled=false"]
        config = load_config(folder / "config.yaml", settings)
        fit(config, base=folder, output=folder / "pipeline", report=lambda line: None)

    return once("table_fitted", fill)


def scores(madpipe, pipeline: Path, inputs: Path, output: Path) -> pd.DataFrame:
    ended = madpipe("score", "--pipeline", pipeline, inputs, "-o", output)
    assert ended.code == 0, ended.err
    return pd.read_csv(output)


def test_the_manifest_names_the_columns_of_a_trusted_table_alone(table_fitted, fitted):
    assert Pipeline.load(table_fitted / "pipeline").columns == NAMES
    assert Pipeline.load(fitted.pipeline).columns is None


def test_a_table_in_another_order_scores_as_the_same_rows_do(madpipe, table_fitted, tmp_path):
    pipeline = table_fitted / "pipeline"
    by_name = scores(madpipe, pipeline, table_fitted / "test.csv", tmp_path / "a.csv")
    in_order = scores(madpipe, pipeline, table_fitted / "test.npz", tmp_path / "b.csv")
    pd.testing.assert_frame_equal(by_name, in_order)


def test_a_table_in_another_order_evaluates_as_the_same_rows_do(madpipe, table_fitted):
    words = ["evaluate", "--pipeline", table_fitted / "pipeline", "--label", "is_anomalous", "--json"]
    ended = [madpipe(*words, table_fitted / name) for name in ("test.csv", "test.npz")]
    assert [e.code for e in ended] == [0, 0], ended
    by_name, in_order = (json.loads(e.out) for e in ended)
    assert by_name["default"] == in_order["default"]


def test_recalibration_reads_by_name(madpipe, table_fitted, own_rows, tmp_path):
    rows = own_rows(200, 21)
    pd.DataFrame(rows, columns=NAMES)[SHUFFLED].to_csv(tmp_path / "fresh.csv", index=False)
    np.savez(tmp_path / "fresh.npz", x=rows)
    calibrations = []
    for name in ("fresh.csv", "fresh.npz"):
        pipeline = Path(shutil.copytree(table_fitted / "pipeline", tmp_path / f"pipeline_{name}"))
        assert madpipe("recalibrate", "--pipeline", pipeline, "--trusted", tmp_path / name).code == 0
        calibrations.append(Pipeline.load(pipeline).ensemble.calibration.combined[0])
    np.testing.assert_allclose(*calibrations)
    assert read_facts(pipeline)["columns"] == NAMES


def test_a_table_of_other_names_ends_with_2(madpipe, table_fitted, tmp_path):
    table = pd.read_csv(table_fitted / "test.csv").rename(columns={"income": "incomes"})
    path = tmp_path / "other.csv"
    table.to_csv(path, index=False)
    pipeline = shutil.copytree(table_fitted / "pipeline", tmp_path / "pipeline")
    commands = [
        ["score", "--pipeline", pipeline, path, "-o", tmp_path / "s.csv"],
        ["evaluate", "--pipeline", pipeline, path, "--label", "is_anomalous"],
        ["evaluate", "--pipeline", pipeline, table_fitted / "test.csv", "--label", "is_anomalous"]
        + ["--controls", "--trusted", path],
        ["recalibrate", "--pipeline", pipeline, "--trusted", path],
    ]
    for command in commands:
        ended = madpipe(*command)
        assert ended.code == 2
        assert f"{path} has no column 'income', which was fitted on. Did you mean 'incomes'?" in ended.err


def test_a_manifest_that_names_no_columns_still_loads(table_fitted, tmp_path):
    pipeline = Path(shutil.copytree(table_fitted / "pipeline", tmp_path / "pipeline"))
    facts = {name: value for name, value in read_facts(pipeline).items() if name != "columns"}
    write_manifest(pipeline, facts, load_json(pipeline / "pipeline.json")["files"])
    assert Pipeline.load(pipeline).columns is None


# As an MLflow model


@pytest.fixture(scope="module")
def table_model(table_fitted, tmp_path_factory) -> Any:
    """The pipeline as MLflow loads it."""
    folder = tmp_path_factory.mktemp("model") / "model"
    write_model(
        folder, Pipeline.load(table_fitted / "pipeline"), table_fitted / "pipeline", np.ones((2, 6), np.float32)
    )
    with quiet():
        from mlflow.pyfunc import load_model

        return load_model(str(folder))


def test_the_model_takes_columns_by_name_in_any_order(table_model, table_fitted):
    with np.load(table_fitted / "test.npz") as test:
        x = test["x"][:20].astype(np.float64)
    by_name = table_model.predict(pd.DataFrame(x, columns=NAMES)[SHUFFLED])
    scored = Pipeline.load(table_fitted / "pipeline").score(x.astype(np.float32))
    np.testing.assert_array_equal(by_name.anomaly_score, scored.anomaly_score)


def test_the_model_names_a_missing_column(table_model):
    with pytest.raises(Exception, match="missing inputs \\['income'\\]"):
        table_model.predict(pd.DataFrame(np.ones((1, 5)), columns=[name for name in NAMES if name != "income"]))


def test_the_model_s_own_code_refuses_a_column_that_was_not_fitted_on(table_model):
    table = pd.DataFrame(np.ones((1, 6)), columns=[*NAMES[:5], "nevre"])
    with pytest.raises(UnknownNameError, match="no column 'never', which was fitted on. Did you mean 'nevre'?"):
        table_model.unwrap_python_model().predict(None, table)
