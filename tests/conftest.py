"""What every test runs under: one thread, no telemetry, no store but its own, one task cache for the whole run."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from hypothesis import settings

# Read when torch, numpy or mlflow is first imported, so they are set before any test file is.
os.environ["OMP_NUM_THREADS"] = "1"  # small arrays are many times slower on several threads, and sums keep their order
os.environ["MPLBACKEND"] = "Agg"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_DISABLE_AGENT_HINT"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
):
    os.environ.pop(name, None)  # no test run may reach a developer's server

# The same examples in every run; a shared machine may pause for longer than any deadline.
settings.register_profile("madpipe", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("madpipe")


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a task cache of its own, which pytest-xdist's workers inherit and share."""
    if not hasattr(config, "workerinput"):
        cache = tempfile.mkdtemp(prefix="madpipe-test-cache-")
        os.environ["MADPIPE_CACHE"] = cache
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no CUDA device; torch is imported only if there are such tests."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def madpipe(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line as its console script does: `madpipe("score", "--help").code`."""

    def run(*arguments: object) -> Ended:
        from madpipe.cli.main import main

        with pytest.raises(SystemExit) as ending:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ended(int(ending.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def process() -> Callable[..., Ended]:
    """Run the command line in a process of its own, in the folder `cwd`, with nothing of MLflow in its environment."""

    def run(*arguments: object, cwd: Path, **environment: str) -> Ended:
        words = [sys.executable, "-m", "madpipe", *(str(argument) for argument in arguments)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        clean |= {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
        done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once("name", fill)`: the folder that `fill(folder)` filled, once for all xdist workers. Only read it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        folder = shared / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with folder.with_name(f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.with_name(f"{name}.made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                folder.with_name(f"{name}.made").touch()
        return folder

    return get


OWN_FACTORY = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
"""
OWN_CONFIG = """
target:
  factory: my_model.py:build        # or package.module:build; returns an nn.Module
  kwargs: {}
  weights: weights.safetensors      # or a state dict, read with weights_only
  output: categorical               # categorical | bernoulli (independent logits) | regression
  sites: ["*"]                      # globs over module paths; default: every decomposable layer
data:
  trusted: trusted.npz
  key: x
decomposition: {method: spd}
tracking: {experiment: my-model}
"""


@dataclass(frozen=True)
class Fitted:
    """`folder` holds the user's files and the store (mlflow.db), `ended` is how `fit --json` ended."""

    folder: Path
    pipeline: Path
    ended: Ended

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.ended.out)

    @property
    def store_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def own_rows() -> Callable[..., Any]:
    """Inputs [count, 6] float32 of the own model. Trusted ones never use the last input; `anomalous` ones do."""
    import numpy as np

    def draw(count: int, seed: int, *, anomalous: bool = False) -> Any:
        rows = np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)
        rows[:, 5] = 4 * np.sign(rows[:, 5]) if anomalous else 0
        return rows

    return draw


@pytest.fixture(scope="session")
def write_own_model(own_rows: Callable[..., Any]) -> Callable[..., Path]:
    """`write_own_model(folder, rows=300)`: the files a user brings; config.yaml is the README's, word for word."""

    def write(folder: Path, rows: int = 300) -> Path:
        import numpy as np
        import torch
        from safetensors.torch import save_file

        generator = torch.Generator().manual_seed(0)
        shapes = {"0.weight": (12, 6), "0.bias": (12,), "2.weight": (3, 12), "2.bias": (3,)}
        weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        save_file(weights, folder / "weights.safetensors")
        (folder / "my_model.py").write_text(OWN_FACTORY)
        (folder / "config.yaml").write_text(OWN_CONFIG)
        np.savez(folder / "trusted.npz", x=own_rows(rows, 1))
        mixed = np.concatenate([own_rows(100, 2), own_rows(50, 3, anomalous=True)])
        np.savez(folder / "test.npz", x=mixed, is_anomalous=np.arange(150) >= 100)
        return folder

    return write


@pytest.fixture(scope="session")
def fitted(once: Callable[..., Path], write_own_model: Callable[..., Path], process: Callable[..., Ended]) -> Fitted:
    """The own model fitted by the command in a process of its own, with the default store. Only read it."""

    def fit(folder: Path) -> None:
        write_own_model(folder)
        ended = process("fit", "config.yaml", "-o", "pipeline", "--set", "decomposition.steps=60", "--json", cwd=folder)
        (folder / "ended.json").write_text(json.dumps(asdict(ended)))

    folder = once("fitted", fit)
    ended = Ended(**json.loads((folder / "ended.json").read_text()))
    assert ended.code == 0, ended.err
    return Fitted(folder, folder / "pipeline", ended)


@pytest.fixture(scope="session")
def cross_fitted(once: Callable[..., Path], write_own_model: Callable[..., Path]) -> Path:
    """A pipeline of 60 trusted rows, too few to split, in five folds; logged nowhere. Only read it."""

    def fit_it(folder: Path) -> None:
        from madpipe.config.loading import load_config
        from madpipe.workflows.fit import fit

        write_own_model(folder, rows=60)
        config = load_config(folder / "config.yaml", ["decomposition.steps=40", "tracking.enabled=false"])
        fit(config, base=folder, output=folder / "pipeline", report=lambda line: None)

    return once("cross_fitted", fit_it) / "pipeline"


@dataclass(frozen=True)
class Decomposed:
    """`folder` holds the user's files and the store (mlflow.db), `path` the decomposition, of three seeds."""

    folder: Path
    path: Path

    @property
    def store_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


SMALL = ("decomposition.steps=40", "decomposition.components=4")


@pytest.fixture(scope="session")
def decomposed(once: Callable[..., Path], write_own_model: Callable[..., Path]) -> Decomposed:
    """The own model decomposed, and logged in a store beside it. Only read it."""

    def decompose_it(folder: Path) -> None:
        from madpipe.config.loading import load_config
        from madpipe.workflows.decompose import decompose

        write_own_model(folder)
        config = load_config(folder / "config.yaml", ["decomposition.seeds=3", *SMALL])
        store = f"sqlite:///{folder / 'mlflow.db'}"
        decompose(config, base=folder, output=folder / "it", tracking_uri=store, report=lambda line: None)

    folder = once("decomposed", decompose_it)
    return Decomposed(folder, folder / "it")


@pytest.fixture(scope="session")
def benchmark_cell() -> Callable[..., dict[str, Any]]:
    """`benchmark_cell("task", seed, auroc=0.9, controls={"trusted_copy_kl": 0.8})`: a cell's document, made up."""

    def metrics(auroc: float, normal: int = 100, flagged: tuple[int, int] = (1, 5)) -> dict[str, Any]:
        rates = {"average_precision": auroc, "tpr_at_1": auroc / 2, "tpr_at_5": auroc, "recall_at_nominal_1": 0.5}
        rates |= {"fpr_at_nominal_1": flagged[0] / normal, "fpr_at_nominal_5": flagged[1] / normal}
        counts = {"all": {"rows": normal, "1": flagged[0], "5": flagged[1]}}
        return {"auroc": auroc, **rates, "false_positives": counts}

    def control(name: str, auroc: float) -> dict[str, Any]:
        patterns = {"union_of_controls": "union", "que": "activations"}.get(name, name.rpartition("_")[0])
        return metrics(auroc) | {"patterns": patterns, "offline": name == "que", "passes": 2.0}

    def make(
        task: str = "task",
        seed: int = 0,
        pipeline: str = "default",
        *,
        auroc: float = 0.9,
        controls: dict[str, float] | None = None,
        agree: float | None = None,
        crossed: bool = False,
        flagged: tuple[int, int] = (1, 5),
    ) -> dict[str, Any]:
        default = metrics(auroc, flagged=flagged) | {"auroc_interval": [auroc - 0.1, auroc + 0.05]}
        others = {name: control(name, value) for name, value in (controls or {}).items()}
        members = {"surprise": metrics(0.7)}
        if agree is not None:
            for judged in (default, *members.values(), *others.values()):
                judged["agree"] = metrics(agree) | {"rows": 10}
        cost = {"fit_seconds": 2.0, "fit_process_seconds": 1.0, "wall_ratio": 20.0, "evaluations": 9.0}
        judged = {"default": default, "members": members, "cost": cost, "crossed": crossed, "calibration_size": 199}
        return {"task": task, "seed": seed, "pipeline": pipeline, **judged} | ({"controls": others} if others else {})

    return make


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MlflowServer:
    """A real `mlflow server` on loopback, on the store `backend`, which may be killed and started again."""

    def __init__(self, folder: Path, backend: str):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        places = ["--backend-store-uri", backend, "--artifacts-destination", str(folder / "files")]
        self._words = [sys.executable, "-m", "mlflow", *words, *places]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "127.0.0.1"}
        with (self.folder / "log").open("a") as log:
            out = {"stdout": log, "stderr": log, "start_new_session": True}
            self._process = subprocess.Popen(self._words, cwd=self.folder, env=os.environ | own, **out)
        direct = build_opener(ProxyHandler({}))
        for _ in range(900):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            try:
                if direct.open(f"{self.uri}/health", timeout=1).status == 200:
                    return
            except (URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(f"no server after 90 s: {(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        """SIGKILL to it and its workers."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """`postgres("name")`: the address of a new database on a PostgreSQL of this session's own, stopped at the end."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # where Debian puts the server's programs
    if not programs:
        pytest.skip("needs the Debian package postgresql")
    pytest.importorskip("psycopg2", reason="needs the pip package psycopg2-binary")
    # Another user cannot look into pytest's own folders, and the server refuses to run as root.
    home, port = Path(tempfile.mkdtemp(prefix="madpipe-postgres-")), free_port()
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    if who:
        shutil.chown(home, "postgres", "postgres")

    def run(program: str, *words: str) -> None:
        with tempfile.TemporaryFile() as log:  # not a pipe: the server inherits the streams and would keep it open
            done = subprocess.run([programs[-1] / program, *words], stdout=log, stderr=log, cwd="/", check=False, **who)
            log.seek(0)
            assert done.returncode == 0, log.read().decode()

    def database(name: str) -> str:
        run("createdb", "-h", str(home), "-p", str(port), "-U", "madpipe", name)
        return f"postgresql+psycopg2://madpipe@127.0.0.1:{port}/{name}"

    data = str(home / "data")
    try:
        run("initdb", "-D", data, "-U", "madpipe", "--auth=trust", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-o", f"-p {port} -k {home} -c listen_addresses=127.0.0.1", "start")
        yield database
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[Callable[[Path, str], MlflowServer]]:
    """`mlflow_server(folder, backend)`: a server, not started yet; all are killed at the end."""
    made: list[MlflowServer] = []

    def make(folder: Path, backend: str) -> MlflowServer:
        made.append(MlflowServer(folder, backend))
        return made[-1]

    yield make
    for server in made:
        server.kill()


class PageReader(HTMLParser):
    """Of a page: elements left open, those closed out of turn, what it would fetch, what it would run, its words."""

    VOID = frozenset({"meta", "br", "img", "link"})
    FETCHING = frozenset({"src", "href", "xlink:href", "data", "srcset"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.fetched: list[str | None] = []
        self.run: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        addresses = [value for name, value in attrs if name in self.FETCHING]
        self.fetched += [value for value in addresses if not (value or "").startswith(("#", "data:image/png;base64,"))]
        self.run += [tag] if tag in ("script", "iframe", "object", "embed") else []
        self.run += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], PageReader]:
    """`read_page(html).fetched`"""
    return PageReader
