"""Laws of a run: how it ends, what it remembers, what it refuses, and that no secret gets in."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import madpipe
from madpipe.errors import ConfigError, TrackingError
from madpipe.tracking.runs import Run, Store, open_store

SECRET_URI = "postgresql://ada:s3cret@host/db?sslpassword=s3cret"


@pytest.fixture
def run(store: Store) -> Iterator[Run]:
    with store.run("a run", "detector") as run:
        yield run


def stored(store: Store, run_id: str):
    return store.client.get_run(run_id)


def everything_in(store: Store) -> bytes:
    """Every byte of the database and of the artifacts."""
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_run_that_ends_well_is_finished(store: Store):
    with store.run("a run", "detector") as run:
        assert stored(store, run.id).info.status == "RUNNING"
    assert stored(store, run.id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_that_is_ended_by_an_error_says_so_and_lets_it_through(
    store: Store, error: type[BaseException], status: str
):
    with pytest.raises(error), store.run("a run", "detector") as run:
        raise error
    assert stored(store, run.id).info.status == status


def test_sigterm_ends_a_run_as_killed_with_143(store: Store):
    def told_to_stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    with pytest.raises(SystemExit) as left, store.run("a run", "detector") as run:
        told_to_stop()
    assert left.value.code == 143
    assert stored(store, run.id).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_sigterm_that_stands_is_left_alone(store: Store):
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: heard.append(signum))
    try:
        with store.run("a run", "detector") as run:
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert stored(store, run.id).info.status == "FINISHED"


def test_a_run_is_flat_and_tagged_with_what_it_is(store: Store):
    with store.run("a run", "detector", {"decomposition_run_id": "abc", "team.owner": "ada"}) as run:
        pass
    tags = stored(store, run.id).data.tags
    assert tags["madpipe.kind"] == "detector"
    assert tags["madpipe.decomposition_run_id"] == "abc"
    assert tags["team.owner"] == "ada"
    assert tags["mlflow.runName"] == "a run"
    assert tags["mlflow.source.name"] == "madpipe"
    assert "mlflow.parentRunId" not in tags


def test_a_killed_run_can_be_resumed_under_its_id(store: Store):
    with pytest.raises(KeyboardInterrupt), store.run("a run", "decomposition") as first:
        raise KeyboardInterrupt
    assert store.has_run(first.id)
    with store.run("a run", "decomposition", resume=first.id) as second:
        assert stored(store, first.id).info.status == "RUNNING"
    assert second.id == first.id
    assert stored(store, first.id).info.status == "FINISHED"


def test_a_run_of_another_store_or_experiment_cannot_be_resumed(store: Store):
    other = open_store(store.uri, "another")
    with other.run("a run", "detector") as run:
        pass
    assert not store.has_run(run.id)
    assert not store.has_run("0" * 32)


def test_params_are_stored_as_text(store: Store, run: Run):
    run.params({"decomposition.method": "spd", "seed": 0, "register": True, "key": None, "lr": 1e-4})
    assert stored(store, run.id).data.params == {
        "decomposition.method": "spd",
        "seed": "0",
        "register": "True",
        "key": "None",
        "lr": "0.0001",
    }


def test_more_params_than_a_request_takes_are_all_stored(store: Store, run: Run):
    run.params({f"p{i}": i for i in range(250)})
    assert len(stored(store, run.id).data.params) == 250


def test_a_param_longer_than_500_characters_is_our_mistake(run: Run):
    run.params({"short": "x" * 500})
    with pytest.raises(AssertionError, match="log it with text"):
        run.params({"long": "x" * 501})


def test_a_nested_param_is_our_mistake(run: Run):
    with pytest.raises(AssertionError, match="flat"):
        run.params({"decomposition": {"method": "spd"}})  # type: ignore[dict-item]


def test_a_param_that_changes_is_refused_in_one_line(run: Run):
    run.params({"seed": 0})
    with pytest.raises(TrackingError) as refused:
        run.params({"seed": 1})
    assert "seed" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_finite_metrics_are_stored_and_the_others_named(store: Store, run: Run):
    left_out = run.metrics({"eval/auroc": 0.5, "eval/a": float("nan"), "eval/b": float("inf"), "n": np.float32(2)})
    assert left_out == ["eval/a", "eval/b"]
    assert stored(store, run.id).data.metrics == {"eval/auroc": 0.5, "n": 2.0}


def test_characters_that_mlflow_refuses_in_names_become_underscores(store: Store, run: Run):
    run.metrics({"eval/member@2//x": 1.0})
    run.params({"members.a=b": 1})
    assert stored(store, run.id).data.metrics == {"eval/member_2/x": 1.0}
    assert stored(store, run.id).data.params == {"members.a_b": "1"}


def test_a_thousand_steps_cost_few_requests_and_keep_their_order(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
):
    requests: list[int] = []
    log_batch = store.client.log_batch
    monkeypatch.setattr(store.client, "log_batch", lambda *a, **k: requests.append(1) or log_batch(*a, **k))
    run.history((step, {"train/loss": step / 2, "train/l0": 3.0}) for step in range(1000))
    assert len(requests) == 2  # 2000 numbers, 1000 a request
    history = store.client.get_metric_history(run.id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, step / 2) for step in range(1000)]


def test_the_note_is_the_description_of_the_run(store: Store, run: Run):
    run.note("# AUROC 0.99\n\n| a | b |")
    assert stored(store, run.id).data.tags["mlflow.note.content"] == "# AUROC 0.99\n\n| a | b |"


def test_a_note_longer_than_mlflow_takes_is_cut(store: Store, run: Run):
    run.note("x" * 9000)
    assert len(stored(store, run.id).data.tags["mlflow.note.content"]) == 8000


def test_files_folders_and_texts_become_artifacts_beside_the_database(store: Store, run: Run, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc.png").write_bytes(b"png")
    run.artifact(tmp_path / "figures" / "roc.png", "one")
    run.artifact(tmp_path / "figures")
    run.text("a: 1\n", "config/resolved.yaml")
    root = Path(store.uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    found = {str(path.relative_to(root / run.id / "artifacts")) for path in root.rglob("*") if path.is_file()}
    assert found == {"one/roc.png", "figures/roc.png", "config/resolved.yaml"}


def test_a_missing_artifact_is_our_mistake(run: Run, tmp_path: Path):
    with pytest.raises(AssertionError, match="no artifact"):
        run.artifact(tmp_path / "nothing.png")


def test_a_dataset_is_remembered_by_name_context_shape_and_digest(store: Store, run: Run):
    x = np.zeros((7, 8, 8), np.float32)
    digest = run.dataset(x, "trusted.npz", "calibration")
    (entry,) = stored(store, run.id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("trusted.npz", digest)
    assert '"features_shape": [7, 8, 8]' in entry.dataset.profile
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "calibration")]


def test_a_model_of_one_run_is_the_input_of_another(store: Store):
    with store.run("decomposition", "decomposition") as first:
        model_id = first.model("decomposition", {"method": "spd"})
    with store.run("detector", "detector") as second:
        second.model_inputs([model_id])
    assert [made.model_id for made in stored(store, first.id).outputs.model_outputs] == [model_id]
    assert [used.model_id for used in stored(store, second.id).inputs.model_inputs] == [model_id]
    model = store.client.get_logged_model(model_id)
    assert (model.name, model.status, model.params) == ("decomposition", "READY", {"method": "spd"})


def test_the_files_of_a_model_are_stored_with_it(store: Store, run: Run, tmp_path: Path):
    (tmp_path / "decomposition").mkdir()
    (tmp_path / "decomposition" / "components.safetensors").write_bytes(b"abc")
    model_id = run.model("decomposition", folder=tmp_path / "decomposition")
    assert [file.path for file in store.client.list_logged_model_artifacts(model_id)] == ["components.safetensors"]


def test_a_metric_can_be_tied_to_a_model(store: Store, run: Run):
    model_id = run.model("decomposition")
    run.metrics({"eval/auroc": 0.75}, model_id=model_id)
    assert [(m.key, m.value) for m in store.client.get_logged_model(model_id).metrics] == [("eval/auroc", 0.75)]


def test_no_secret_of_an_address_gets_into_the_store(store: Store):
    with store.run("a run", "detector", {"where": SECRET_URI}) as run:
        run.params({"tracking.tracking_uri": SECRET_URI})
        run.note(f"logged to {SECRET_URI}")
        run.text(f"tracking:\n  tracking_uri: {SECRET_URI}\n", "config/resolved.yaml")
        run.model("decomposition", {"where": SECRET_URI})
    written = everything_in(store)
    assert b"postgresql://host/db" in written
    assert b"s3cret" not in written


def test_the_password_of_the_store_itself_is_in_no_message_and_no_representation(store: Store):
    secretive = Store("http://ada:s3cret@127.0.0.1:9", store.client, "digits", "1")
    assert "s3cret" not in repr(Run(secretive, "abc"))
    assert Run(secretive, "abc").address == "http://127.0.0.1:9/#/experiments/1/runs/abc"


def test_a_run_in_a_file_is_looked_at_with_a_command(store: Store, run: Run):
    assert run.address == f"mlflow ui --backend-store-uri {store.uri}"


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a@b"])
def test_an_experiment_that_cannot_name_a_model_is_refused_before_any_work(name: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"tracking\.experiment"):
        open_store(None, name)
    assert not list(tmp_path.iterdir())


def test_a_store_that_dies_neither_hides_the_error_nor_delays_the_end(store: Store):
    def fail_after_the_store() -> None:
        object.__setattr__(store, "client", MlflowClient("http://127.0.0.1:9"))
        raise ValueError("the real one")

    start = time.monotonic()
    with pytest.raises(ValueError, match="the real one"), store.run("a run", "detector"):
        fail_after_the_store()
    assert time.monotonic() - start < 5


def test_what_was_a_param_of_a_run_may_be_logged_again_when_it_is_resumed(store: Store):
    with store.run("a run", "detector") as first:
        first.params({"seed": 0})
    with store.run("a run", "detector", resume=first.id) as second:
        second.params({"seed": 0})
    assert stored(store, first.id).data.params == {"seed": "0"}


def test_settings_of_mlflow_are_made_before_it_is_imported():
    code = (
        "import os, sys, madpipe.tracking; assert 'mlflow' not in sys.modules; "
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['MLFLOW_DISABLE_AGENT_HINT'], "
        "os.environ['MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR'], os.environ['GIT_PYTHON_REFRESH'])"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GIT_"))}
    clean["PYTHONPATH"] = str(Path(madpipe.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["true", "true", "false", "quiet"]


def test_settings_that_the_user_made_are_kept():
    code = "import os, madpipe.tracking; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    own = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "false", "PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["false"]
