"""A stored pipeline scores as its folder does, holds no trusted row and no pickle, or is not called ready."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.models import Model

import madpipe
from madpipe.errors import TrackingError
from madpipe.pipeline.folder import read_facts, seal
from madpipe.pipeline.scorer import Pipeline
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import Run, Store

EXAMPLE = np.random.default_rng(1).standard_normal((3, 2, 3)).astype(np.float32)


def load_model(location: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of its own type hints, and that madpipe may not be installed
        from mlflow import pyfunc

        return pyfunc.load_model(str(location))


def the_model(store: Store) -> Any:
    """The one logged model of the experiment."""
    (model,) = store.client.search_logged_models([store.experiment_id])
    return model


@pytest.fixture(scope="module")
def logged(shared_store: Store, pipeline_folder: Path) -> Run:
    with shared_store.run("a run", "detector") as run:
        run.params({"seed": 0})
        run.metrics({"eval/auroc": 0.75, "train/loss": 3.0})
        log_pipeline(run, pipeline_folder, EXAMPLE)
    return run


@pytest.fixture(scope="module")
def location(logged: Run) -> Path:
    """Where the logged pipeline lies."""
    return Path(the_model(logged.store).artifact_location.removeprefix("file://"))


@pytest.fixture(scope="module")
def model(location: Path) -> Any:
    return load_model(location)


def test_a_logged_pipeline_is_ready_and_an_output_of_its_run(logged: Run):
    model = the_model(logged.store)
    assert (model.name, model.status, model.source_run_id) == ("pipeline", "READY", logged.id)
    made = logged.store.client.get_run(logged.id).outputs.model_outputs
    assert [output.model_id for output in made] == [model.model_id]


def test_the_table_of_models_shows_the_runs_params_and_results(logged: Run):
    assert the_model(logged.store).params == {"seed": "0"}
    assert [(metric.key, metric.value) for metric in the_model(logged.store).metrics] == [("eval/auroc", 0.75)]


def test_trusted_rows_stay_at_home_and_every_other_file_is_stored_once(location: Path, pipeline_folder: Path):
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    stored = location / "artifacts" / "pipeline"
    assert files(pipeline_folder) - files(stored) == {"trusted/trusted.npz"}
    assert files(stored) < files(pipeline_folder)
    assert len(list(location.rglob("pipeline.json"))) == 1


def test_nothing_that_was_stored_is_a_pickle(location: Path):
    endings = {path.suffix for path in location.rglob("*") if path.is_file()}
    assert endings <= {"", ".npz", ".safetensors", ".skops", ".txt", ".py", ".json", ".yaml"}


def test_nothing_is_left_in_the_current_folder(store: Store, pipeline_folder: Path, tmp_path: Path):
    with store.run("a run", "detector") as run:
        log_pipeline(run, pipeline_folder, EXAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_stored_pipeline_scores_as_its_folder(model: Any, pipeline_folder: Path):
    table, scored = model.predict(EXAMPLE), Pipeline.load(pipeline_folder).score_flagging(EXAMPLE, 0.01)
    assert np.array_equal(table.anomaly_score, scored.anomaly_score)
    assert np.array_equal(table.p_value, scored.p_value)
    assert list(table.top_components) == ["; ".join(names) for names in scored.top_components]


def test_a_stored_pipeline_gives_the_columns_of_a_score_file(model: Any, pipeline_folder: Path):
    members = [f"member_{name}" for name in Pipeline.load(pipeline_folder).member_names]
    table = model.predict(EXAMPLE)
    assert list(table) == ["input_id", "anomaly_score", "p_value", "flagged", "top_components", *members]
    assert list(table.input_id) == ["0", "1", "2"]


def test_alpha_is_a_parameter_of_each_request(model: Any):
    p_value = model.predict(EXAMPLE).p_value
    assert list(model.predict(EXAMPLE).flagged) == list(p_value <= 0.01)
    assert list(model.predict(EXAMPLE, params={"alpha": 1.0}).flagged) == [True, True, True]


def test_more_rows_than_a_batch_are_scored_in_order(model: Any, monkeypatch: pytest.MonkeyPatch):
    whole = model.predict(EXAMPLE)
    monkeypatch.setattr(Pipeline, "batch_size", 2)
    parts = model.predict(EXAMPLE)
    assert list(parts.input_id) == ["0", "1", "2"]
    assert list(parts.index) == [0, 1, 2]
    assert parts.anomaly_score.to_numpy() == pytest.approx(whole.anomaly_score.to_numpy(), rel=1e-5)


@pytest.mark.parametrize(
    "rows",
    [
        EXAMPLE.astype(np.float64),
        EXAMPLE.tolist(),
        EXAMPLE.reshape(3, 6),
        pd.DataFrame(EXAMPLE.reshape(3, 6).astype(np.float64)),
        pd.DataFrame({"x": EXAMPLE.reshape(3, 6).tolist()}),
        pd.DataFrame({"x": EXAMPLE.tolist()}),
    ],
    ids=["float64", "lists", "flat", "table", "column-of-lists", "column-of-nested-lists"],
)
def test_rows_in_other_forms_are_cast_and_reshaped(model: Any, rows: object):
    table = model.unwrap_python_model().predict(None, rows)
    assert np.array_equal(table.anomaly_score, model.predict(EXAMPLE).anomaly_score)


def test_the_signature_says_float32_rows_of_any_number_and_alpha(location: Path):
    signature = Model.load(str(location)).signature
    (tensor,) = signature.inputs.inputs
    assert (tensor.type, tensor.shape) == (np.dtype("float32"), (-1, 2, 3))
    (alpha,) = signature.params.params
    assert (alpha.name, alpha.default) == ("alpha", 0.01)


def test_the_signature_names_the_columns_that_come_back(location: Path, model: Any):
    assert Model.load(str(location)).signature.outputs.input_names() == list(model.predict(EXAMPLE))


def test_the_input_example_is_the_one_that_was_given(location: Path):
    assert np.array_equal(np.array(json.loads((location / "input_example.json").read_text()), np.float32), EXAMPLE)


def test_requirements_are_pinned_and_can_be_found_on_an_index(location: Path):
    lines = (location / "requirements.txt").read_text().split()
    assert f"madpipe=={madpipe.__version__}" in lines
    assert any(line.startswith("torch==") for line in lines)
    assert all("==" in line and "+" not in line for line in lines)


def test_own_requirements_replace_the_pinned_ones(store: Store, pipeline_folder: Path):
    with store.run("a run", "detector") as run:
        log_pipeline(run, pipeline_folder, EXAMPLE, ["madpipe==9.9.9", "mlflow==3.17.2"])
    location = Path(the_model(store).artifact_location.removeprefix("file://"))
    assert (location / "requirements.txt").read_text().split() == ["madpipe==9.9.9", "mlflow==3.17.2"]


def test_a_stored_pipeline_loads_where_pickles_are_forbidden(location: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert len(load_model(location).predict(EXAMPLE)) == 3


def test_a_folder_whose_config_holds_credentials_is_our_mistake(store: Store, tmp_path: Path):
    (tmp_path / "config.yaml").write_text("tracking: {tracking_uri: 'http://ada:s3cret@host'}")
    with pytest.raises(AssertionError, match="credentials"), store.run("a run", "detector") as run:
        log_pipeline(run, tmp_path, EXAMPLE)
    assert store.client.search_logged_models([store.experiment_id]) == []


def refusal(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]) -> str:
    """What `log_pipeline` says where `damage(pipeline folder)` happens between this machine and the store."""
    log_artifacts = store.client.log_model_artifacts

    def damaged(model_id: str, local_dir: str) -> None:
        damage(Path(local_dir) / "artifacts" / "pipeline")
        log_artifacts(model_id, local_dir)

    monkeypatch.setattr(store.client, "log_model_artifacts", damaged)
    with pytest.raises(TrackingError) as refused, store.run("a run", "detector") as run:
        log_pipeline(run, folder, EXAMPLE)
    assert "\n" not in str(refused.value)
    assert the_model(store).status == "FAILED"
    return str(refused.value)


def test_a_pipeline_that_does_not_load_after_storing_is_refused(
    store: Store, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    said = refusal(store, pipeline_folder, monkeypatch, lambda folder: os.remove(folder / "config.yaml"))
    assert "cannot be used: DamagedFileError" in said


def test_a_pipeline_that_scores_otherwise_after_storing_is_refused(
    store: Store, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def forge(folder: Path) -> None:
        """Another target, with the digests to match."""
        code = folder / "target" / "model.py"
        code.write_text(code.read_text().replace("nn.ReLU()", "nn.Tanh()"))
        seal(folder, read_facts(folder))

    assert "anomaly_score differs by up to" in refusal(store, pipeline_folder, monkeypatch, forge)
