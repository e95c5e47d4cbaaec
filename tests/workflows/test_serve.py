"""`madpipe serve`: a real server process on a free port of this machine, asked as strangers would ask it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.slow  # a server process loads torch and MLflow
CLIENTS = 100


@dataclass(frozen=True)
class Server:
    address: str
    started: str
    folder: Path
    process: subprocess.Popen[str]

    def ask(self, method: str, path: str, body: str | bytes | None = None, kind: str = "application/json"):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with closing(connection):
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def score(self, document: object, path: str = "/invocations") -> list[dict]:
        status, text = self.ask("POST", path, json.dumps(document))
        assert status == 200, text
        return json.loads(text)["predictions"]


@contextmanager
def served(pipeline: object, folder: Path, *words: object) -> Iterator[Server]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    line = [sys.executable, "-m", "madpipe", "serve", "--pipeline", str(pipeline), "--port", "0", *map(str, words)]
    process = subprocess.Popen(line, cwd=folder, env=clean, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        started = process.stderr.readline()
        found = re.search(r"at http://(127\.0\.0\.1:\d+) ", started)
        assert found, started + process.stderr.read()
        yield Server(found[1], started, folder, process)
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server(fitted, tmp_path_factory) -> Iterator[Server]:
    with served(fitted.pipeline, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def expected(fitted, process, tmp_path_factory) -> tuple[np.ndarray, list[dict]]:
    """Distinct rows, one for each client, and what `madpipe score` says of them."""
    folder = tmp_path_factory.mktemp("expected")
    x = np.random.default_rng(7).standard_normal((CLIENTS, 6)).astype(np.float32)
    np.savez(folder / "rows.npz", x=x)
    ended = process("score", "--pipeline", fitted.pipeline, "rows.npz", "-o", "rows.jsonl", cwd=folder)
    assert ended.code == 0, ended.err
    return x, [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def same(found: dict, wanted: dict) -> bool:
    numbers = [name for name in wanted if isinstance(wanted[name], float)]
    return all(found[name] == pytest.approx(wanted[name], rel=1e-6) for name in numbers) and all(
        found[name] == wanted[name] for name in ("flagged", "top_components")
    )


def test_the_start_is_told_in_one_line_whose_example_works_when_pasted(server):
    assert server.started.startswith("Serving ")
    command = server.started.partition("Next: ")[2].strip()
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    (answer,) = json.loads(done.stdout)["predictions"]
    assert set(answer) >= {"anomaly_score", "p_value", "flagged", "top_components"}


def test_a_hundred_at_once_each_get_their_own_answer(server, expected):
    x, scored = expected
    start = threading.Barrier(CLIENTS)

    def client(row: int) -> dict:
        start.wait()
        (answer,) = server.score({"inputs": [x[row].tolist()]})
        return answer

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(client, range(CLIENTS)))
    wrong = [row for row in range(CLIENTS) if not same(answers[row], scored[row])]
    assert wrong == []
    assert len({answer["anomaly_score"] for answer in answers}) == CLIENTS


def test_many_rows_in_one_request_come_back_in_order(server, expected):
    x, scored = expected
    answers = server.score(x.tolist())
    assert [answer["input_id"] for answer in answers] == [str(row) for row in range(CLIENTS)]
    assert all(same(answer, wanted) for answer, wanted in zip(answers, scored, strict=True))


def test_every_form_of_a_request_is_scored_alike(server, expected):
    x, scored = expected
    rows = x[:3].tolist()
    for body in ({"inputs": rows}, {"instances": rows}, {"dataframe_split": {"data": rows}}, rows):
        assert all(map(same, server.score(body), scored))
    table = pd.DataFrame(x[:3].astype(np.float64)).to_csv(index=False)
    status, text = server.ask("POST", "/invocations", table, "text/csv")
    assert status == 200
    assert all(map(same, json.loads(text)["predictions"], scored))


def test_alpha_is_a_parameter_of_each_request(server, expected):
    x, scored = expected
    p = scored[0]["p_value"]
    for alpha, flagged in ((p * 1.01, True), (p * 0.99, False)):
        assert server.score({"inputs": x[:1].tolist(), "params": {"alpha": alpha}})[0]["flagged"] == flagged
        assert server.score(x[:1].tolist(), f"/invocations?alpha={alpha}")[0]["flagged"] == flagged


def test_it_says_that_it_is_up(server):
    assert [server.ask("GET", f"/{path}")[0] for path in ("health", "ping", "version")] == [200, 200, 200]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([[1, 2]], 400, "rows have shape (2,), and (6,) is needed"),
        ([[1, 2, 3, 4, 5, None]], 400, "without text or null"),
        ([[1, 2, 3, 4, 5, float("nan")]], 400, "NaN or infinite"),
        ({"inputs": [[0] * 6], "params": {"alpha": 7}}, 400, "must lie between 0 and 1"),
        ({"inputs": [[0] * 6], "params": {"beta": 0.1}}, 400, "no parameter named 'beta'"),
        ([[3e38] * 6], 200, "predictions"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(server, body, status, said):
    found, text = server.ask("POST", "/invocations", json.dumps(body))
    assert found == status
    assert said in text
    assert "Traceback" not in text
    if status != 200:
        assert set(json.loads(text)) == {"error_code", "message"}


def test_another_content_type_and_a_body_beyond_all_measure_are_refused(server):
    assert server.ask("POST", "/invocations", "[[0]]", "text/plain")[0] == 415
    assert server.ask("POST", "/invocations", b" " * (64 * 2**20 + 1))[0] == 413


def test_after_all_this_it_still_answers_and_has_left_nothing(server, expected):
    x, scored = expected
    assert same(server.score(x[:1].tolist())[0], scored[0])
    assert not list(server.folder.iterdir())


def test_sigterm_ends_it_with_0_and_removes_what_it_unpacked(fitted, tmp_path):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        with served(fitted.pipeline, tmp_path, "--workers", "2") as running:
            assert running.score([[0] * 6])
            assert list(scratch.iterdir())
            running.process.send_signal(signal.SIGTERM)
            _, rest = running.process.communicate(timeout=60)
    assert (running.process.returncode, rest) == (0, "")
    assert not [path for path in scratch.iterdir() if path.name.startswith("madpipe-")]


def test_a_registered_pipeline_is_served_once_its_code_is_trusted(madpipe, fitted, expected, tmp_path):
    words = ["serve", "--pipeline", "models:/my-model@champion", "--port", "0", "--tracking-uri", fitted.store_uri]
    refused = madpipe(*words)
    assert refused.code == 2
    assert "--trust-code" in refused.err
    x, scored = expected
    with served("models:/my-model@champion", tmp_path, *words[5:], "--trust-code") as running:
        assert same(running.score(x[:1].tolist())[0], scored[0])


def test_a_port_that_is_taken_ends_with_1(madpipe, fitted, server):
    ended = madpipe("serve", "--pipeline", fitted.pipeline, "--port", server.address.partition(":")[2])
    assert ended.code == 1
    assert ended.err.endswith("Address already in use. Try another --port.\n")
    assert ended.err.count("\n") == 1


def test_what_is_no_pipeline_ends_with_2(madpipe, tmp_path):
    ended = madpipe("serve", "--pipeline", tmp_path, "--port", "0")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
