"""compose.yaml: what it promises, and its MLflow server really run on a PostgreSQL of this test's own."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "pipelines" / "compose" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STEPS = {name: service for name, service in SERVICES.items() if "profiles" in service}
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts the server's programs


def test_a_step_runs_only_when_its_profile_is_named():
    assert {name: service["profiles"] for name, service in STEPS.items()} == {"fit": ["fit"], "score": ["score"]}


@pytest.mark.parametrize("name", ["database", "tracking"])
def test_who_waits_for_a_service_waits_for_its_health(name: str):
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    waiting = [service["depends_on"] for service in SERVICES.values() if name in service.get("depends_on", {})]
    assert waiting
    assert all(needs[name] == {"condition": "service_healthy"} for needs in waiting)


def test_volumes_and_secrets_that_services_name_are_declared():
    named = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in named if not name.startswith("$")} == COMPOSE["volumes"].keys()
    assert {name for service in SERVICES.values() for name in service.get("secrets", [])} == COMPOSE["secrets"].keys()


def test_the_image_runs_on_a_root_that_it_cannot_write_to():
    ours = {name: service for name, service in SERVICES.items() if name != "database"}
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in ours.values())
    assert "ports" not in SERVICES["database"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["tracking"]["ports"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a PostgreSQL with the user, database and password of compose.yaml; stopped at the end."""
    if not POSTGRES:
        pytest.skip("needs the Debian package postgresql")
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    home = Path(f"/tmp/madpipe-postgres-{os.getpid()}")  # another user cannot look into pytest's own folders
    home.mkdir()
    (home / "password").write_text("s3cret")
    if who:
        shutil.chown(home, "postgres", "postgres")

    def run(program: str, *words: str) -> None:
        # Its standard streams go to a file: the server inherits them and would keep a pipe open.
        with (folder / "log").open("a") as log:
            done = subprocess.run([POSTGRES[-1] / program, *words], stdout=log, stderr=log, cwd="/", check=False, **who)
        assert done.returncode == 0, (folder / "log").read_text()

    data = str(home / "data")
    try:
        run("initdb", "-D", data, "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={home / 'password'}", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-o", f"-p {port} -k {home} -c listen_addresses=127.0.0.1", "start")
        with _password():
            run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow")
        yield port
        run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(home)


@contextlib.contextmanager
def _password() -> Iterator[None]:
    os.environ["PGPASSWORD"] = "s3cret"
    try:
        yield
    finally:
        del os.environ["PGPASSWORD"]


def answer(port: int, host: str) -> int:
    with contextlib.suppress(URLError):
        try:
            address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
            request = Request(address, headers={"Host": f"{host}:{port}"})
            return int(urlopen(request, timeout=5).status)
        except HTTPError as refusal:
            return refusal.code
    return 0


@pytest.fixture
def tracking(database: int, tmp_path: Path) -> Iterator[int]:
    """The port of the server that compose.yaml describes, with its words and settings but for addresses."""
    pytest.importorskip("psycopg2", reason="needs the pip package psycopg2-binary")
    service, port = SERVICES["tracking"], free_port()
    changed = {"5000": str(port), "0.0.0.0": "127.0.0.1", "/results": str(tmp_path / "artifacts")}
    words = [changed.get(word, word) for word in (*service["entrypoint"], *service["command"])]
    settings = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in service["environment"].items()}
    settings["MLFLOW_BACKEND_STORE_URI"] = settings["MLFLOW_BACKEND_STORE_URI"].replace(
        "@database", f"@127.0.0.1:{database}"
    )
    hosts = settings["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(":5000", f":{port}")
    environment = os.environ | settings | {"PGPASSWORD": "s3cret", "MLFLOW_SERVER_ALLOWED_HOSTS": hosts}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while answer(port, "localhost") != 200 and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    yield port
    server.terminate()
    server.wait(30)


@pytest.mark.soak
def test_a_fit_is_stored_by_the_server_and_other_hosts_are_refused(tracking, write_own_model, process, tmp_path):
    assert answer(tracking, "tracking") == 200
    assert answer(tracking, "elsewhere.example") == 403
    folder = write_own_model(tmp_path)
    words = ("fit", "config.yaml", "-o", "pipeline", "--set", "decomposition.steps=40", "--set", "calibration.folds=1")
    ended = process(*words, cwd=folder, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{tracking}")
    assert ended.code == 0, ended.err
    assert "logged as models:/my-model/1" in ended.err
    assert list((tmp_path / "artifacts").rglob("pipeline.json"))
