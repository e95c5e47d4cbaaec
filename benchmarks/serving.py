"""A pipeline behind `madpipe serve`: are concurrent answers right, how many a second, how fast one after the other?

    python benchmarks/serving.py                       # fits a digits MLP and serves it
    python benchmarks/serving.py --pipeline DIR        # a pipeline of yours
    python benchmarks/serving.py --workers 2

A line is appended to benchmarks/results/serving.jsonl. 100 clients send one distinct row each at once, ten times over;
every answer is compared with what `madpipe score` wrote for that row. Latency is that of one client on one open
connection, one row a request, after a warm-up.
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

CLIENTS, ROUNDS, SEQUENTIAL = 100, 10, 300
RESULTS = Path(__file__).parent / "results" / "serving.jsonl"
CONFIG = "task: {name: digits, attack: conj, net: mlp, seed: 0}\ntracking: {enabled: false}\n"
Row = dict[str, object]


def madpipe(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "madpipe", *map(str, words)]
    return subprocess.run(line, check=True, text=True, stdout=subprocess.PIPE)


def fit_digits(folder: Path) -> Path:
    (folder / "config.yaml").write_text(CONFIG)
    madpipe("fit", folder / "config.yaml", "-o", folder / "pipeline")
    return folder / "pipeline"


def scored_by_command(pipeline: Path, x: np.ndarray, scratch: Path) -> list[Row]:
    np.savez(scratch / "rows.npz", x=x)
    madpipe("score", "--pipeline", pipeline, scratch / "rows.npz", "-o", scratch / "rows.jsonl")
    return [json.loads(line) for line in (scratch / "rows.jsonl").read_text().splitlines()]


@contextmanager
def served(pipeline: Path, workers: int) -> Iterator[str]:
    """host:port of a server in a process of its own."""
    words = [sys.executable, "-m", "madpipe", "serve", "--pipeline", str(pipeline), "--port", "0", "--json"]
    server = subprocess.Popen([*words, "--workers", str(workers)], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        lines = iter(server.stdout.readline, "}\n")
        yield json.loads("".join(lines) + "}")["url"].removeprefix("http://")
    finally:
        server.send_signal(signal.SIGTERM)
        print(f"the server ended with {server.wait(30)}", file=sys.stderr)


def ask(connection: http.client.HTTPConnection, row: np.ndarray) -> Row:
    body = json.dumps({"inputs": [row.tolist()]})
    connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    (prediction,) = json.loads(text)["predictions"]
    return prediction


def largest_difference(expected: Row, found: Row) -> float:
    """Largest relative difference of score and p-value; infinite where the flag or the parts are others."""
    if any(expected[name] != found[name] for name in ("flagged", "top_components")):
        return float("inf")
    pairs = [(expected[name], found[name]) for name in ("anomaly_score", "p_value")]
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


def concurrent(address: str, x: np.ndarray, expected: list[Row]) -> tuple[float, float]:
    """Requests a second of CLIENTS clients that start together, and the largest difference of any answer."""
    start = threading.Barrier(CLIENTS + 1)

    def client(first: int) -> float:
        connection = http.client.HTTPConnection(address, timeout=60)
        start.wait()
        rows = [(first + CLIENTS * k) % len(x) for k in range(ROUNDS)]
        return max(largest_difference(expected[row], ask(connection, x[row])) for row in rows)

    with ThreadPoolExecutor(CLIENTS) as pool:
        futures = [pool.submit(client, i) for i in range(CLIENTS)]
        start.wait()
        began = time.perf_counter()
        worst = max(future.result() for future in futures)
        return CLIENTS * ROUNDS / (time.perf_counter() - began), worst


def sequential(address: str, x: np.ndarray) -> list[float]:
    """Milliseconds of SEQUENTIAL requests one after the other."""
    connection = http.client.HTTPConnection(address, timeout=60)
    took = []
    for i in range(SEQUENTIAL + 20):
        began = time.perf_counter()
        ask(connection, x[i % len(x)])
        took.append(1e3 * (time.perf_counter() - began))
    return took[20:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with TemporaryDirectory() as scratch:
        pipeline = args.pipeline or fit_digits(Path(scratch))
        shape = json.loads((pipeline / "pipeline.json").read_text())["input_shape"]
        x = np.random.default_rng(0).random((CLIENTS * ROUNDS, *shape), dtype=np.float32)
        expected = scored_by_command(pipeline, x, Path(scratch))
        with served(pipeline, args.workers) as address:
            milliseconds = sequential(address, x)
            a_second, worst = concurrent(address, x, expected)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "pipeline": "digits-conj-mlp-0" if args.pipeline is None else pipeline.name,
        "workers": args.workers,
        "requests": CLIENTS * ROUNDS,
        "clients": CLIENTS,
        "requests_a_second": round(a_second, 1),
        "median_ms": round(statistics.median(milliseconds), 2),
        "p95_ms": round(float(np.quantile(milliseconds, 0.95)), 2),
        "largest_relative_difference": float(f"{worst:.2g}"),
        "load": round(os.getloadavg()[0], 1),
    }
    shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in result.values()]
    for row in (result, ["---"] * len(result), shown):
        print(f"| {' | '.join(row)} |")
    with RESULTS.open("a") as file:
        file.write(json.dumps(result) + "\n")
    assert worst <= 1e-6, f"an answer differs from what madpipe score says by {worst:.2g}"


if __name__ == "__main__":
    main()
