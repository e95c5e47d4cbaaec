"""Faults that are really done to real processes, and a count of them for `benchmarks/faults.py`."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from madpipe.pipeline.folder import digest, verify

RECORD = os.environ.get("MADPIPE_FAULTS_RECORD")  # a file to which every test adds what it tried, and how it ended
PASSED = pytest.StashKey[bool]()
SMALL = ("decomposition.steps=400", "decomposition.components=4", "calibration.folds=2", "tracking.experiment=faults")
FINAL = (  # what must be the same to the byte
    *(f"folds/{k}/decomposition/components.safetensors" for k in range(2)),
    *(f"folds/{k}/involvement.safetensors" for k in range(2)),
    "ensemble/calibration.npz",
    "splits.npz",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """`tried("disk full", 2)`: a fault was done so often in this test. All count as lost where the test then fails."""
    counts: dict[str, int] = {}

    def count(fault: str, times: int = 1) -> None:
        counts[fault] = counts.get(fault, 0) + times

    yield count
    if RECORD:
        with Path(RECORD).open("a") as file:
            for fault, times in counts.items():
                lost = 0 if request.node.stash.get(PASSED, False) else times
                file.write(json.dumps({"fault": fault, "times": times, "lost": lost}) + "\n")


@dataclass(frozen=True)
class Place:
    """A user's folder with the own model, a config and a store whose tables are made."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "result"

    def fit(self, *options: str, output: Path | str = "result", **popen: object) -> "subprocess.Popen[str]":
        """`madpipe fit` as a process of its own, small and with its talk in pipes."""
        settings = [word for setting in SMALL for word in ("--set", setting)]
        return self.start("fit", "config.yaml", "-o", str(output), *settings, *options, **popen)

    def start(self, *words: str, environment: dict[str, str] | None = None, **popen: object) -> "subprocess.Popen[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        clean |= {"PYTHONPATH": str(Path(__file__).parents[2])} | (environment or {})
        return subprocess.Popen(
            [sys.executable, "-m", "madpipe", *words],
            **{"cwd": self.folder, "env": clean, "text": True, "stdout": -1, "stderr": -1} | popen,
        )

    def refuse_corrupt_store(self) -> None:
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def runs(self) -> list[tuple[str, str]]:
        """(kind, status) of every run of the experiment, in order."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            found = store.execute(
                "SELECT t.value, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
                "JOIN experiments e ON e.experiment_id = r.experiment_id "
                "WHERE t.key = 'madpipe.kind' AND e.name = 'faults' ORDER BY r.start_time"
            )
            return [(kind, status) for kind, status in found]


@dataclass(frozen=True)
class Told:
    code: int
    talk: str

    @property
    def last(self) -> str:
        return self.talk.rstrip().splitlines()[-1]


def ending(process: "subprocess.Popen[str]") -> Told:
    _, talk = process.communicate(timeout=300)
    return Told(process.returncode, talk)


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def final(pipeline: Path) -> dict[str, str]:
    """Digests of what a fit must end at, once all files of the folder are found to be whole."""
    verify(pipeline)
    return {name: digest(pipeline / name) for name in FINAL}


@pytest.fixture
def place(write_own_model, fitted, tmp_path: Path) -> Place:
    write_own_model(tmp_path)
    shutil.copy(fitted.folder / "mlflow.db", tmp_path)
    return Place(tmp_path)


@dataclass(frozen=True)
class Reference:
    """seconds: from the working folder being there to the end."""

    final: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def reference(once, write_own_model, fitted) -> Reference:
    """A fit that nothing happened to."""

    def fit_it(folder: Path) -> None:
        write_own_model(folder)
        shutil.copy(fitted.folder / "mlflow.db", folder)
        process = Place(folder).fit()
        wait_until((folder / "result.partial").exists, process)
        began = time.monotonic()
        told = ending(process)
        assert told.code == 0, told.talk
        (folder / "seconds").write_text(str(time.monotonic() - began))

    folder = once("fault_reference", fit_it)
    return Reference(final(folder / "result"), float((folder / "seconds").read_text()))


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A tmpfs of its own; skips the test where that takes rights that are not there."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes rights that are not here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Callable[..., object]:
    return lambda *options: mounted(tmp_path / "mounted", *options)
