"""The watch over a stream of scores, kept between runs in one file: has what is scored drifted from what was trusted?

The file (.npz, nothing pickled) holds the scores seen as distinct values and counts, the state of the random ties, the
capital of the bets, a thinned history and the digests of the input files counted, so that a file scored again after a
crash is counted once. A watch belongs to one pipeline: recalibrating or fitting again begins another.
"""

import copy
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import read_array
from madpipe.detectors.martingale import BETS, DriftMartingale, log_threshold
from madpipe.errors import DamagedFileError, MissingFileError, TooFewRowsError, UsageError
from madpipe.pipeline.folder import digest, folder_digest
from madpipe.pipeline.locking import locked
from madpipe.pipeline.scorer import Pipeline

Floats = NDArray[np.float64]
FORMAT = 1
DEFAULT_LEVEL = 0.01
MOST_POINTS = 2048  # of the history; beyond, every second point is dropped
NATS_OF_A_TEN = float(np.log(10))


@dataclass
class History:
    """log10 of the martingale at every `stride`-th input since the beginning, input 0 included."""

    at: list[int] = field(default_factory=lambda: [0])
    log10_evidence: list[float] = field(default_factory=lambda: [0.0])
    stride: int = 1

    def add(self, first: int, log10_evidence: Floats) -> None:
        """Evidence after inputs first, first + 1, ..."""
        kept = np.arange(-first % self.stride, len(log10_evidence), self.stride)
        self.at += (first + kept).tolist()
        self.log10_evidence += log10_evidence[kept].tolist()
        while len(self.at) > MOST_POINTS:
            self.stride *= 2
            points = [(at, e) for at, e in zip(self.at, self.log10_evidence, strict=True) if at % self.stride == 0]
            self.at, self.log10_evidence = [at for at, _ in points], [e for _, e in points]


@dataclass(frozen=True)
class DriftReport:
    """`alarmed_at`: how many inputs had been seen when the alarm was raised, None before. An alarm stands."""

    seen: int
    log10_evidence: float
    level: float
    alarmed_at: int | None
    skipped: tuple[str, ...]
    history: History


class DriftWatch:
    """Counts scores into the martingale; `save` writes what was counted.

    key: of the array that is scored in each file, where it was asked for by name; another of the same file is counted.
    """

    key: str | None = None

    def __init__(self, path: Path, facts: dict[str, Any], martingale: DriftMartingale, history: History):
        self.path, self.martingale, self.history = path, martingale, history
        self.facts = facts
        self.latest = history.log10_evidence[-1] if "latest" not in facts else float(facts["latest"])
        self.skipped: list[str] = []

    @contextmanager
    def whole_or_not(self) -> Iterator[None]:
        """What was counted in the block is forgotten where the block ends in an error."""
        before = copy.deepcopy(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def begin(self, path: Path) -> Callable[[Floats], None]:
        """What to call with the anomaly scores of an input file, batch by batch; once counted it is not again."""
        held = digest(path) if self.key is None else f"{digest(path)}:{self.key}"
        if held in self.facts["counted"]:
            self.skipped.append(path.name)
            return lambda anomaly_scores: None
        self.facts["counted"].append(held)
        return self._count

    def _count(self, anomaly_scores: Floats) -> None:
        first = self.martingale.seen + 1
        wealth = self.martingale.update(-anomaly_scores)
        if not len(wealth):
            return
        over = np.flatnonzero(wealth >= log_threshold(self.facts["level"]))
        if self.facts["alarmed_at"] is None and len(over):
            self.facts["alarmed_at"] = first + int(over[0])
        self.latest = float(wealth[-1]) / NATS_OF_A_TEN
        self.history.add(first, wealth / NATS_OF_A_TEN)

    def report(self) -> DriftReport:
        level, alarmed_at = self.facts["level"], self.facts["alarmed_at"]
        return DriftReport(self.martingale.seen, self.latest, level, alarmed_at, tuple(self.skipped), self.history)

    def save(self) -> None:
        """Whole or not at all."""
        ranks = self.martingale.ranks
        facts = self.facts | {
            "seen": self.martingale.seen,
            "latest": self.latest,
            "stride": self.history.stride,
            "random": ranks.random.bit_generator.state,
        }
        arrays: dict[str, Any] = {
            "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
            "values": ranks.values,
            "counts": ranks.counts,
            "log_capital": self.martingale.log_capital,
            "history_at": np.array(self.history.at),
            "history_log10_evidence": np.array(self.history.log10_evidence),
        }
        partial = self.path.with_name(f"{self.path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, self.path)


@contextmanager
def drift_watch(
    path: Path, level: float | None, folder: Path, pipeline: Pipeline, key: str | None = None
) -> Iterator[DriftWatch]:
    """The watch kept in `path`, or a new one where there is no such file; one process at a time.

    level: None for the one it was begun with (0.01 when new). UsageError for the state of another pipeline or level;
    TooFewRowsError where calibration is cross-fitted: its rows were each scored without their own fold, new inputs by
    all folds, so the two are not exchangeable and no alarm could be trusted.
    """
    if path.suffix != ".npz":
        raise UsageError(f"--monitor {path}: the name must end in .npz.")
    if not path.parent.is_dir():
        raise MissingFileError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    if pipeline.facts["crossed"]:
        raise TooFewRowsError(
            "this pipeline has too few trusted rows for one frozen calibration (it is cross-fitted), so drift cannot "
            "be told; fit on at least 200 rows to use --monitor."
        )
    with locked(path.with_name(f"{path.name}.lock"), f"another process is using {path} now; wait for it."):
        watch = _loaded(path, level, folder) if path.exists() else _begun(path, level, folder, pipeline)
        watch.key = key
        yield watch


def _begun(path: Path, level: float | None, folder: Path, pipeline: Pipeline) -> DriftWatch:
    calibration = pipeline.ensemble.calibration.combined[0]
    facts: dict[str, Any] = {"format": FORMAT, "pipeline": folder_digest(folder), "level": level or DEFAULT_LEVEL}
    log_threshold(facts["level"])
    facts |= {"alarmed_at": None, "counted": []}
    return DriftWatch(path, facts, DriftMartingale(calibration, int(pipeline.facts["seed"])), History())


def _loaded(path: Path, level: float | None, folder: Path) -> DriftWatch:
    facts = _facts(path)
    if facts["pipeline"] != folder_digest(folder):
        raise UsageError(f"{path} watches another pipeline (or this one before it was recalibrated); name a new file.")
    if level not in (None, facts["level"]):
        raise UsageError(
            f"{path} was begun at level {facts['level']:g}; leave --monitor-level out, or name a new file."
        )
    martingale = DriftMartingale(read_array(path, "values"))
    martingale.ranks.values = np.array(read_array(path, "values"), dtype=np.float64)
    martingale.ranks.counts = np.array(read_array(path, "counts"), dtype=np.int64)
    martingale.log_capital = np.array(read_array(path, "log_capital"), dtype=np.float64)
    martingale.seen = facts["seen"]
    at, log10_evidence = read_array(path, "history_at"), read_array(path, "history_log10_evidence")
    try:
        martingale.ranks.random.bit_generator.state = facts["random"]
    except (TypeError, ValueError, KeyError):
        raise _damaged(path) from None
    fit = len(martingale.ranks.counts) == len(martingale.ranks.values) and martingale.log_capital.shape == (BETS,)
    if not fit or len(at) != len(log10_evidence):
        raise _damaged(path)
    return DriftWatch(path, facts, martingale, History(at.tolist(), log10_evidence.tolist(), facts["stride"]))


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(bytes(np.asarray(read_array(path, "facts"), dtype=np.uint8)))
    except ValueError:
        raise _damaged(path) from None
    needed = {"format", "pipeline", "level", "alarmed_at", "counted", "seen", "latest", "stride", "random"}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or not needed <= facts.keys():
        raise _damaged(path)
    least = {"seen": 0, "stride": 1}
    if any(not isinstance(facts[name], int) or facts[name] < smallest for name, smallest in least.items()):
        raise _damaged(path)
    return facts


def _damaged(path: Path) -> DamagedFileError:
    return DamagedFileError(f"{path} is no watch that this madpipe can read; restore it, or name a new file")
