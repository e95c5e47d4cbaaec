"""Registered names: aliases as promised, nothing run without trust, nearest names for what is not there."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest

from madpipe.errors import TrackingError, UnknownNameError, UsageError
from madpipe.pipeline.scorer import Pipeline
from madpipe.tracking.model_registry import local_folder, register
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import Run, Store

EXAMPLE = np.ones((2, 2, 3), np.float32)


@pytest.fixture(scope="module")
def logged(shared_store: Store, pipeline_folder: Path) -> tuple[Run, str]:
    """A run and its pipeline, which is registered once as 'digits'."""
    with shared_store.run("a run", "detector") as run:
        model_uri = log_pipeline(run, pipeline_folder, EXAMPLE)
        register(run, model_uri, "digits")
    return run, model_uri


@pytest.fixture
def run(logged: tuple[Run, str]) -> Run:
    return logged[0]


@pytest.fixture
def model_uri(logged: tuple[Run, str]) -> str:
    return logged[1]


def fetch(store: Store, uri: str) -> Path:
    return local_folder(uri, trust_code=True, tracking_uri=store.uri)


def standing(store: Store, name: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in store.client.get_registered_model(name).aliases.items()}


def test_the_first_version_is_candidate_and_champion(run: Run, model_uri: str):
    made = register(run, model_uri, "once")
    assert (made.version, made.aliases, made.uri) == (1, ("candidate", "champion"), "models:/once/1")
    assert standing(run.store, "once") == {"candidate": 1, "champion": 1}


def test_a_later_version_is_candidate_and_leaves_the_champion(run: Run, model_uri: str):
    register(run, model_uri, "twice")
    assert register(run, model_uri, "twice").aliases == ("candidate",)
    assert standing(run.store, "twice") == {"candidate": 2, "champion": 1}


def test_a_version_is_linked_to_its_run_and_logged_model(run: Run, model_uri: str):
    register(run, model_uri, "linked")
    version = run.store.client.get_model_version("linked", "1")
    assert (version.run_id, version.source) == (run.id, model_uri)
    model = run.store.client.get_logged_model(model_uri.removeprefix("models:/"))
    assert {"name": "digits", "version": 1} in json.loads(model.tags["mlflow.modelVersions"])
    assert {"name": "linked", "version": 1} in json.loads(model.tags["mlflow.modelVersions"])


def test_registering_leaves_mlflows_own_store_as_it_was(run: Run, model_uri: str, monkeypatch: pytest.MonkeyPatch):
    register(run, model_uri, "own")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/mlflow.db")
    assert mlflow.get_tracking_uri() == "sqlite:////somewhere/mlflow.db"


def test_a_program_that_set_mlflows_store_itself_finds_it_unchanged(
    run: Run, model_uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "restored by monkeypatch")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        register(run, model_uri, "another")
        assert mlflow.get_tracking_uri() == "http://127.0.0.1:9"
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["models:/digits@champion", "models:/digits/1", "models:/digits/latest"])
def test_a_registered_pipeline_is_fetched_by_alias_or_version(run: Run, model_uri: str, form: str):
    folder = fetch(run.store, form)
    assert (folder.name, (folder / "trusted").exists()) == ("pipeline", False)
    assert len(Pipeline.load(folder).score(EXAMPLE).p_value) == 2


def test_a_logged_pipeline_is_fetched_by_its_own_id_or_its_run(run: Run, model_uri: str):
    for form in (model_uri, f"runs:/{run.id}/pipeline", f"runs:/{run.id}"):
        assert (fetch(run.store, form) / "pipeline.json").is_file()


def test_what_is_fetched_is_a_copy(run: Run, model_uri: str):
    (fetch(run.store, model_uri) / "pipeline.json").unlink()
    assert (fetch(run.store, model_uri) / "pipeline.json").is_file()


def test_the_store_is_found_in_the_environment(run: Run, model_uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.store.uri)
    assert (local_folder(model_uri, trust_code=True) / "pipeline.json").is_file()


def test_without_trust_nothing_is_fetched_and_the_flag_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="factory, which scoring would run.*--trust-code"):
        local_folder("models:/digits@champion", trust_code=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/digit/1", "no registered model named 'digit'. Did you mean 'digits'? Known: "),
        ("models:/digits/9", "no version of 'digits' named '9'. Known: 1."),
        ("models:/digits/Production", "no version of 'digits' named 'Production'. Known: 1."),
        ("models:/digits@champio", "no alias of 'digits' named 'champio'. Did you mean 'champion'?"),
        ("models:/m-00000000000000000000000000000000", "no logged model 'm-0"),
        ("runs:/00000000000000000000000000000000/pipeline", "no run '0000"),
        ("runs:/not a run/pipeline", "no run 'not a run'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(run: Run, model_uri: str, uri: str, said: str):
    with pytest.raises(UnknownNameError) as refused:
        fetch(run.store, uri)
    assert said in str(refused.value)


def test_an_unknown_model_of_a_run_is_answered_with_the_runs_models(run: Run, model_uri: str):
    with pytest.raises(UnknownNameError, match="no model of run .* named 'pipelin'. Did you mean 'pipeline'?"):
        fetch(run.store, f"runs:/{run.id}/pipelin")


def test_a_name_without_a_version_is_answered_with_what_there_is(run: Run, model_uri: str):
    with pytest.raises(UsageError, match=r"versions 1; aliases @candidate \(1\), @champion \(1\)"):
        fetch(run.store, "models:/digits")


@pytest.mark.parametrize("uri", ["models:/", "models:/a/b/c", "runs:/", "digits"])
def test_what_is_no_address_of_a_model_is_answered_with_the_known_forms(store: Store, uri: str):
    with pytest.raises(UsageError, match="Known forms: models:/NAME@ALIAS"):
        fetch(store, uri)


def test_a_model_that_is_no_pipeline_is_refused(run: Run):
    model_id = run.model("decomposition")
    with pytest.raises(UsageError, match="holds no madpipe pipeline"):
        fetch(run.store, f"models:/{model_id}")


def test_an_unreachable_store_is_said_to_be_so_without_its_password():
    with pytest.raises(TrackingError, match="nothing listens there") as refused:
        local_folder("models:/digits@champion", True, "http://ada:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(refused.value)
