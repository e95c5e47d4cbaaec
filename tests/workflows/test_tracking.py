"""What `fit` and `score` leave in MLflow: two flat, linked runs, a model under aliases; no trusted row, no password."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from madpipe.config.loading import load_config
from madpipe.pipeline.folder import folder_digest
from madpipe.workflows.fit import FitResult, fit

SECRET = "31415926"
SHARED = {"data.name", "seed", *(f"decomposition.{name}" for name in ("method", "C", "steps", "seeds"))}


@dataclass(frozen=True)
class Logged:
    """Two fits in one store whose address holds a secret (sqlite takes `timeout`, a server would take a password)."""

    folder: Path
    client: MlflowClient
    first: FitResult
    second: FitResult
    talk: list[str]

    def detector_run(self, result: FitResult) -> Run:
        assert result.run_id
        return self.client.get_run(result.run_id)

    def decomposition_run(self, result: FitResult) -> Run:
        assert result.decomposition_run_id
        return self.client.get_run(result.decomposition_run_id)

    def artifact(self, run: Run, name: str) -> Path:
        return Path(run.info.artifact_uri.removeprefix("file://")) / name


@pytest.fixture(scope="module")
def logged(write_own_model, fitted, tmp_path_factory) -> Logged:
    folder = write_own_model(tmp_path_factory.mktemp("logged"))
    shutil.copy(fitted.folder / "mlflow.db", folder)  # with its tables made, which takes seconds
    uri = f"sqlite:///{folder / 'mlflow.db'}?timeout={SECRET}"
    talk: list[str] = []

    def fitted_as(name: str, *overrides: str) -> FitResult:
        settings = [
            f"tracking.tracking_uri='{uri}'",
            "tracking.experiment=logged",
            "decomposition.steps=40",
            *overrides,
        ]
        config = load_config(folder / "config.yaml", settings)
        return fit(config, base=folder, output=folder / name, report=talk.append)

    first = fitted_as("first")
    second = fitted_as("second", "seed=1", "tracking.log_example=trusted", "data.keep_trusted=false")
    return Logged(folder, MlflowClient(f"sqlite:///{folder / 'mlflow.db'}"), first, second, talk)


def test_a_fit_leaves_two_flat_finished_runs(logged):
    runs = [logged.decomposition_run(logged.first), logged.detector_run(logged.first)]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert [run.data.tags["madpipe.kind"] for run in runs] == ["decomposition", "detector"]
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)
    experiment = logged.client.get_experiment_by_name("logged").experiment_id
    assert len(logged.client.search_runs([experiment])) == 4


def test_the_detector_run_is_linked_to_its_decomposition_by_tag_and_model(logged):
    decomposition, detector = logged.decomposition_run(logged.first), logged.detector_run(logged.first)
    assert detector.data.tags["madpipe.decomposition_run_id"] == decomposition.info.run_id
    made = [output.model_id for output in decomposition.outputs.model_outputs]
    assert [used.model_id for used in detector.inputs.model_inputs] == made
    assert len(made) == 1


def test_the_detector_run_knows_the_pipeline_by_its_digest(logged):
    tag = logged.detector_run(logged.first).data.tags["madpipe.pipeline_digest"]
    assert tag == folder_digest(logged.first.pipeline)


def test_both_runs_share_a_small_flat_set_of_params(logged):
    decomposition, detector = logged.decomposition_run(logged.first), logged.detector_run(logged.first)
    assert set(decomposition.data.params) == SHARED
    assert set(detector.data.params) == SHARED | {"detector.name", "detector.members"}
    assert {name: detector.data.params[name] for name in SHARED} == decomposition.data.params
    assert decomposition.data.params["decomposition.steps"] == "40"


def test_metrics_come_in_groups(logged):
    decomposition, detector = logged.decomposition_run(logged.first), logged.detector_run(logged.first)
    assert {name.partition("/")[0] for name in decomposition.data.metrics} == {"train", "quality"}
    assert {name.partition("/")[0] for name in detector.data.metrics} == {"calibration"}
    assert detector.data.metrics["calibration/rows"] == 99


def test_the_loss_has_a_history(logged):
    history = logged.client.get_metric_history(logged.first.decomposition_run_id, "train/total")
    assert len(history) == 2  # 40 steps in rounds of 20
    assert all(np.isfinite(point.value) for point in history)


def test_both_runs_hold_the_resolved_config_under_one_name(logged):
    for run in (logged.decomposition_run(logged.first), logged.detector_run(logged.first)):
        stored = yaml.safe_load(logged.artifact(run, "config/resolved.yaml").read_text())
        assert stored == yaml.safe_load((logged.first.pipeline / "config.yaml").read_text())
        assert stored["decomposition"]["steps"] == 40


def test_the_split_indices_are_an_artifact(logged):
    stored = logged.artifact(logged.detector_run(logged.first), "splits/splits.npz")
    assert stored.read_bytes() == (logged.first.pipeline / "splits.npz").read_bytes()


def test_the_runs_name_the_data_they_used_and_how(logged):
    def contexts(run: Run) -> list[tuple[str, str]]:
        used = run.inputs.dataset_inputs
        return sorted((item.dataset.name, tag.value) for item in used for tag in item.tags if "context" in tag.key)

    assert contexts(logged.decomposition_run(logged.first)) == [("trusted", "fit")]
    assert contexts(logged.detector_run(logged.first)) == [
        ("trusted", "calibration"),
        ("trusted", "fit"),
        ("trusted", "validation"),
    ]


def test_the_same_rows_have_the_same_digest_in_both_runs_and_other_rows_another(logged):
    def digest(run: Run) -> set[str]:
        return {
            item.dataset.digest for item in run.inputs.dataset_inputs if any(tag.value == "fit" for tag in item.tags)
        }

    first = digest(logged.decomposition_run(logged.first))
    assert first == digest(logged.detector_run(logged.first))
    assert first != digest(logged.decomposition_run(logged.second))


def test_the_first_version_is_candidate_and_champion_and_the_second_candidate_alone(logged):
    assert logged.first.model_uri == "models:/logged/1"
    assert logged.second.model_uri == "models:/logged/2"
    aliases = logged.client.get_registered_model("logged").aliases
    assert {name: int(version) for name, version in aliases.items()} == {"candidate": 2, "champion": 1}


def model_folder(logged: Logged, version: int) -> Path:
    return Path(logged.client.get_model_version_download_uri("logged", str(version)).removeprefix("file://"))


def stored_example(logged: Logged, version: int) -> np.ndarray:
    return np.array(json.loads((model_folder(logged, version) / "input_example.json").read_text()), np.float32)


def is_trusted(logged: Logged, rows: np.ndarray) -> list[bool]:
    with np.load(logged.folder / "trusted.npz") as stored:
        known = {row.tobytes() for row in stored["x"]}
    return [row.tobytes() in known for row in rows]


def test_the_input_example_is_noise_unless_the_user_allows_a_trusted_row(logged):
    assert is_trusted(logged, stored_example(logged, 1)) == [False, False]
    assert is_trusted(logged, stored_example(logged, 2)) == [True, True]


def test_no_trusted_row_is_in_what_was_logged(logged):
    with np.load(logged.folder / "trusted.npz") as stored:
        rows = [row.tobytes() for row in stored["x"]]
    run_folder = logged.artifact(logged.detector_run(logged.first), "")
    files = [path for place in (model_folder(logged, 1), run_folder) for path in place.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.name == "trusted.npz"]
    assert not [path for path in files if any(row in path.read_bytes() for row in rows)]


def test_trusted_rows_stay_out_of_the_pipeline_folder_too_where_the_config_says_so(logged):
    assert (logged.first.pipeline / "trusted" / "trusted.npz").is_file()
    assert not (logged.second.pipeline / "trusted").exists()


def test_a_secret_in_the_address_is_written_nowhere(logged):
    made = [path for path in logged.folder.rglob("*") if path.is_file()]
    assert len(made) > 50
    assert [path for path in made if SECRET.encode() in path.read_bytes()] == []
    assert not any(SECRET in line for line in logged.talk)


def test_a_fit_without_tracking_leaves_no_store(write_own_model, tmp_path, monkeypatch):
    monkeypatch.chdir(write_own_model(tmp_path))
    config = load_config("config.yaml", ["tracking.enabled=false", "decomposition.steps=20"])
    result = fit(config, base=tmp_path, output=None, report=lambda line: None)
    assert result.pipeline == tmp_path / "my-model-spd-seed0"
    assert (result.run_id, result.decomposition_run_id, result.model_uri) == (None, None, None)
    assert not list(tmp_path.glob("mlflow*"))
    assert not list(tmp_path.glob("mlartifacts*"))


# A model of the registry is scored like a folder, once its code is trusted


@pytest.fixture
def from_registry(madpipe, logged) -> Any:
    uri = f"sqlite:///{logged.folder / 'mlflow.db'}"
    test = logged.folder / "test.npz"

    def run(command: str, model: str, *words: object) -> Any:
        return madpipe(command, "--pipeline", model, test, "--tracking-uri", uri, *words)

    return run


def test_without_trust_in_its_code_a_model_of_the_registry_is_refused(from_registry, tmp_path):
    ended = from_registry("score", "models:/logged@champion", "-o", tmp_path / "s.csv")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "brings the code of its target's own factory" in ended.err
    assert "--trust-code" in ended.err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("model", ["models:/logged@champion", "models:/logged/1"])
def test_with_trust_it_scores_as_its_folder_does(from_registry, madpipe, logged, tmp_path, model):
    assert from_registry("score", model, "--trust-code", "-o", tmp_path / "registry.csv").code == 0
    madpipe("score", "--pipeline", logged.first.pipeline, logged.folder / "test.npz", "-o", tmp_path / "folder.csv")
    assert (tmp_path / "registry.csv").read_bytes() == (tmp_path / "folder.csv").read_bytes()


def test_evaluation_works_from_the_registry_too_but_has_no_trusted_rows_for_controls(from_registry):
    ended = from_registry("evaluate", "models:/logged@champion", "--trust-code", "--json")
    assert json.loads(ended.out)["default"]["auroc"] > 0.9
    refused = from_registry("evaluate", "models:/logged@champion", "--trust-code", "--controls")
    assert refused.code == 2
    assert "give --trusted FILE" in refused.err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("models:/loged@champion", "no registered model named 'loged'. Did you mean 'logged'?"),
        ("models:/logged@champoin", "no alias of 'logged' named 'champoin'. Did you mean 'champion'?"),
        ("models:/logged/9", "no version of 'logged' named '9'."),
    ],
)
def test_a_model_that_is_not_there_ends_with_2_and_names_the_nearest(from_registry, model, said):
    ended = from_registry("score", model, "--trust-code")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_scores_are_logged_on_demand_with_their_table(from_registry, logged, tmp_path):
    experiment = logged.client.get_experiment_by_name("logged").experiment_id
    before = {run.info.run_id for run in logged.client.search_runs([experiment])}
    words = ["--trust-code", "-o", tmp_path / "s.parquet"]
    assert from_registry("score", "models:/logged@champion", *words).code == 0
    assert {run.info.run_id for run in logged.client.search_runs([experiment])} == before
    assert from_registry("score", "models:/logged@champion", *words, "--log").code == 0
    (made,) = [run for run in logged.client.search_runs([experiment]) if run.info.run_id not in before]
    assert made.info.status == "FINISHED"
    assert made.data.metrics["score/rows"] == 150
    assert made.data.tags["madpipe.pipeline_digest"] == folder_digest(logged.first.pipeline)
    assert logged.artifact(made, "tables/s.parquet").read_bytes() == (tmp_path / "s.parquet").read_bytes()


def test_a_dead_server_never_stops_scoring(madpipe, logged, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    words = ["--pipeline", logged.first.pipeline, logged.folder / "test.npz", "-o", tmp_path / "s.csv"]
    assert madpipe("score", *words).code == 0
