"""`madpipe ui`: the refusals, the environment of MLflow's server, and the server itself."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """A folder with a store in it; the list gets the words and the environment that this process would become."""
    (tmp_path / "mlflow.db").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    seen = []

    def execve(program, words, environment):
        seen.append((words, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_server_gets_the_store_and_its_artifacts_and_starts_no_jobs(madpipe, replaced, tmp_path):
    port = free_port()
    ended = madpipe("ui", "--port", port)
    words, environment = replaced[0]
    assert words[1:] == ["-P", "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] == f"file://{tmp_path}/mlartifacts"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert ended.out == ""
    assert f"http://127.0.0.1:{port}" in ended.err
    assert "'Model training'" in ended.err


def test_a_password_of_the_store_is_neither_shown_nor_an_argument(madpipe, replaced):
    uri = "postgresql://anna:geheim@db.example/mlflow"
    ended = madpipe("ui", "--tracking-uri", uri, "--port", free_port())
    words, environment = replaced[0]
    assert "geheim" not in ended.err
    assert "geheim" not in " ".join(words)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri


def test_a_folder_without_a_store_ends_with_2(madpipe, replaced, tmp_path):
    (tmp_path / "mlflow.db").unlink()
    ended = madpipe("ui")
    assert ended.code == 2
    assert ended.err == (
        f"madpipe: no MLflow store at {tmp_path}/mlflow.db. Run 'madpipe fit' there first, or give --tracking-uri.\n"
    )
    assert not replaced


def test_a_port_that_is_taken_ends_with_1(madpipe, replaced):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = madpipe("ui", "--port", port)
    assert ended.code == 1
    assert ended.err == f"madpipe: cannot listen on 127.0.0.1:{port}: Address already in use. Try another --port.\n"
    assert not replaced


def test_a_store_behind_a_server_is_named_without_its_password(madpipe, replaced):
    ended = madpipe("ui", "--tracking-uri", "https://anna:geheim@mlflow.example:5000")
    assert ended.code == 0
    assert "open https://mlflow.example:5000 and pick the 'Model training' view" in ended.err
    assert "geheim" not in ended.err
    assert not replaced


@pytest.mark.slow
def test_the_pages_are_served_and_a_signal_ends_them(tmp_path):
    (tmp_path / "mlflow.db").touch()
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    server = subprocess.Popen(
        [sys.executable, "-m", "madpipe", "ui", "--port", str(port)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert f"http://127.0.0.1:{port}" in server.stderr.readline()
        assert "Model training" in server.stderr.readline()
        assert answer(f"http://127.0.0.1:{port}/health", seconds=90) == b"OK"
        assert b"<title>MLflow</title>" in answer(f"http://127.0.0.1:{port}/", seconds=10)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def answer(address: str, seconds: float) -> bytes:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as page:
                return page.read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
