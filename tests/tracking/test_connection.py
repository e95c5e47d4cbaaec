"""First contact: what cannot work is said in one line, in seconds, without secrets; what works is quiet."""

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest

import madpipe
from madpipe.errors import TrackingError
from madpipe.tracking import connection
from madpipe.tracking.connection import border, connect, environment, experiment_id, impatient, quiet
from madpipe.tracking.runs import open_store


def refusal(uri: str) -> str:
    """The one line with which the store at `uri` is refused."""
    start = time.monotonic()
    with pytest.raises(TrackingError) as refused:
        open_store(uri, "digits")
    assert time.monotonic() - start < 5.5
    assert "\n" not in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    return str(refused.value)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    yield listener.getsockname()[1]
    listener.close()


def test_a_server_that_is_not_there_is_refused_at_once_without_its_password():
    said = refusal("http://ada:s3cret@127.0.0.1:9")
    assert said.startswith("cannot reach the MLflow server http://127.0.0.1:9: nothing listens there.")
    assert "--tracking-uri" in said


def test_a_server_that_never_answers_is_given_up(deaf_port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "PROBE_SECONDS", 1)
    assert "no answer within" in refusal(f"http://ada:s3cret@127.0.0.1:{deaf_port}")


def test_the_probe_waits_less_than_five_seconds():
    assert connection.PROBE_SECONDS < 5


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the credentials; set MLFLOW_TRACKING_USERNAME"),
        (403, "refuses the credentials"),
        (404, "something answers there, but not MLflow"),
        (200, "something answers there, but not MLflow"),
        (500, "500"),
    ],
)
def test_a_server_that_answers_wrongly_is_refused_with_the_reason(status: int, said: str):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert said in refusal(f"http://ada:s3cret@127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_database_server_that_is_not_there_is_refused_at_once():
    said = refusal("postgresql://ada:s3cret@127.0.0.1:9/db")
    assert "cannot reach the database postgresql://127.0.0.1:9/db (Connection refused)" in said


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path):
    assert f"the folder {tmp_path}/nowhere is not there" in refusal(f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_is_not_a_database(tmp_path: Path):
    assert "it is a folder" in refusal(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "notes.db").write_text("not a database at all " * 100)
    assert "file is not a database" in refusal(f"sqlite:///{tmp_path}/notes.db")
    assert (tmp_path / "notes.db").read_text().startswith("not a database")


def test_a_place_that_cannot_be_written_is_refused():
    assert "unable to open database file" in refusal("sqlite:////proc/mlflow.db")


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root, who may write everywhere, becomes nobody for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder that everyone may read and only its owner may write, with a database in it that nobody may write."""
    with TemporaryDirectory() as name:
        Path(name, "mlflow.db").touch(0o444)
        Path(name).chmod(0o555)
        yield Path(name)
        Path(name).chmod(0o700)


@pytest.mark.parametrize("name", ["mlflow.db", "new.db"])
def test_a_place_without_write_permission_is_refused(forbidden: Path, ordinary_user: None, name: str):
    assert f"no right to write {forbidden}" in refusal(f"sqlite:///{forbidden}/{name}")


def test_a_locked_database_is_refused(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "PROBE_SECONDS", 0.2)
    holder = sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert "database is locked" in refusal(sqlite_uri)
    holder.close()


def test_a_database_of_another_mlflow_is_refused_with_what_to_do(sqlite_uri: str):
    with sqlite3.connect(sqlite_uri.removeprefix("sqlite:///")) as database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    database.close()
    assert "mlflow db upgrade" in refusal(sqlite_uri)


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(sqlite_uri: str):
    store = open_store(sqlite_uri, "digits")
    store.client.delete_experiment(store.experiment_id)
    assert f"mlflow experiments restore --experiment-id {store.experiment_id}" in refusal(sqlite_uri)


def test_a_second_opening_finds_the_same_experiment(sqlite_uri: str):
    assert open_store(sqlite_uri, "digits").experiment_id == open_store(sqlite_uri, "digits").experiment_id


def test_an_experiment_that_another_process_makes_meanwhile_is_used(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch):
    client = connect(sqlite_uri)
    made = client.create_experiment("digits")
    looks = iter([None, client.get_experiment_by_name("digits")])
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: next(looks))
    assert experiment_id(client, sqlite_uri, "digits") == made


def test_first_contact_says_nothing_and_leaves_only_the_database(
    first_contact: subprocess.CompletedProcess[str], migrated: Path
):
    assert (first_contact.stdout, first_contact.stderr) == ("", "")
    assert [path.name for path in migrated.parent.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
def test_two_processes_may_make_the_first_contact_at_once(tmp_path: Path):
    environment = os.environ | {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    words = [sys.executable, "-c", "from madpipe.tracking.runs import open_store; open_store(None, 'digits')"]
    both = [subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[1] for process in both] == [b"", b""]


def test_the_environment_is_as_it_was_after_the_probe(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with impatient():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_the_environment_is_as_it_was_after_an_error():
    with pytest.raises(KeyError), environment({"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}):
        raise KeyError
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_mlflow_is_as_loud_as_before_after_the_quiet():
    before = logging.getLogger("mlflow").level
    with quiet():
        assert logging.getLogger("mlflow").level == logging.ERROR
    assert logging.getLogger("mlflow").level == before


def test_an_asked_for_log_level_is_respected(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    before = logging.getLogger("mlflow").level
    with quiet():
        assert logging.getLogger("mlflow").level == before


def test_a_foreign_error_crosses_the_border_as_one_short_line_without_secrets():
    with (
        pytest.raises(TrackingError) as crossed,
        border("http://ada:s3cret@host", "cannot write to"),
    ):
        raise RuntimeError(f"http://ada:s3cret@host said no to s3cret {'x' * 1000}\nsecond line")
    said = str(crossed.value)
    assert said.startswith("cannot write to http://host: http://host said no to *** xxx")
    assert "second" not in said
    assert len(said) < 400
    assert crossed.value.__suppress_context__


def test_our_own_mistakes_cross_the_border_unchanged():
    with pytest.raises(AssertionError, match="ours"), border("http://host", "cannot write to"):
        raise AssertionError("ours")
