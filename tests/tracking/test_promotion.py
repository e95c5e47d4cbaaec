"""The champion moves to a version that scores its example as before, and to no other."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from madpipe.errors import DamagedFileError, UnknownNameError, UsageError
from madpipe.pipeline.folder import read_facts, seal
from madpipe.tracking.model_registry import register
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.promotion import promote
from madpipe.tracking.runs import Run, Store

EXAMPLE = np.random.default_rng(2).standard_normal((3, 2, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def logged(shared_store: Store, pipeline_folder: Path) -> tuple[Run, str]:
    with shared_store.run("a run", "detector") as run:
        return run, log_pipeline(run, pipeline_folder, EXAMPLE)


@pytest.fixture
def versions(logged: tuple[Run, str], request: pytest.FixtureRequest) -> tuple[Store, str]:
    """A store, and a name of two versions in it, the first of which is champion and the second candidate."""
    run, model_uri = logged
    name = request.node.name.partition("[")[0]
    assert register(run, model_uri, name).aliases == ("candidate", "champion")
    assert register(run, model_uri, name).aliases == ("candidate",)
    return run.store, name


def champion(store: Store, name: str) -> int:
    return int(store.client.get_registered_model(name).aliases["champion"])


@pytest.mark.parametrize("version", ["2", "@candidate"])
def test_a_version_becomes_champion_and_an_older_one_again(versions: tuple[Store, str], version: str):
    store, name = versions
    made = promote(name, version, True, store.uri)
    assert (made.version, made.previous, made.rows) == (2, 1, 3)
    assert champion(store, name) == 2
    assert promote(name, "1", True, store.uri).previous == 2
    assert champion(store, name) == 1
    store.client.delete_registered_model(name)


def test_without_trust_nothing_moves(versions: tuple[Store, str]):
    store, name = versions
    with pytest.raises(UsageError, match="--trust-code"):
        promote(name, "2", False, store.uri)
    assert champion(store, name) == 1


@pytest.mark.parametrize(("version", "said"), [("9", "Known: 1, 2."), ("@candidat", "Did you mean 'candidate'?")])
def test_what_is_not_there_is_answered_with_what_is(versions: tuple[Store, str], version: str, said: str):
    store, name = versions
    with pytest.raises(UnknownNameError) as refused:
        promote(name, version, True, store.uri)
    assert said in str(refused.value)
    store.client.delete_registered_model(name)


@pytest.fixture
def own_version(store: Store, pipeline_folder: Path) -> tuple[Store, Path]:
    """A store whose name 'digits' has version 1, which is champion, and version 2, which lies in the folder."""
    for _ in range(2):
        with store.run("a run", "detector") as run:
            register(run, log_pipeline(run, pipeline_folder, EXAMPLE), "digits")
    at = store.client.get_model_version_download_uri("digits", "2")
    return store, Path(at.removeprefix("file://"))


def refusal(store: Store) -> str:
    with pytest.raises(DamagedFileError) as refused:
        promote("digits", "2", True, store.uri)
    assert refused.value.exit_code == 4
    assert champion(store, "digits") == 1
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_version_that_scores_otherwise_stays_what_it_is(own_version: tuple[Store, Path]):
    store, model = own_version
    folder = model / "artifacts" / "pipeline"
    code = folder / "target" / "model.py"
    code.write_text(code.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    seal(folder, read_facts(folder))  # with the digests to match
    said = refusal(store)
    assert "models:/digits/2 scores its stored example otherwise than when it was registered" in said
    assert "The champion stays as it was." in said


def test_a_score_beyond_the_tolerance_is_refused_and_one_within_is_not(own_version: tuple[Store, Path]):
    store, model = own_version
    record = yaml.safe_load((model / "MLmodel").read_text())

    def stored(factor: float) -> None:
        scores = record["metadata"]["example_scores"]["anomaly_score"]
        record["metadata"]["example_scores"]["anomaly_score"] = [factor * score for score in scores]
        (model / "MLmodel").write_text(yaml.safe_dump(record))

    stored(1 + 2e-5)
    assert "anomaly_score differs by up to" in refusal(store)
    stored((1 + 5e-6) / (1 + 2e-5))
    assert promote("digits", "2", True, store.uri).version == 2


def test_a_version_that_does_not_load_is_refused(own_version: tuple[Store, Path]):
    store, model = own_version
    (model / "artifacts" / "pipeline" / "config.yaml").unlink()
    assert "models:/digits/2 cannot be used here: DamagedFileError" in refusal(store)


def test_a_version_without_scores_beside_its_example_is_refused(own_version: tuple[Store, Path]):
    store, model = own_version
    record = yaml.safe_load((model / "MLmodel").read_text())
    (model / "MLmodel").write_text(yaml.safe_dump(record | {"metadata": None}))
    with pytest.raises(UsageError, match="has no example with scores beside it; fit it again"):
        promote("digits", "2", True, store.uri)
