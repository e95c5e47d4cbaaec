"""Pipeline: the fitted whole, loaded from its folder, that scores inputs."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.config.loading import read_document
from madpipe.decomposition.method import Method
from madpipe.errors import DamagedFileError, MadpipeError, MemoryShortError, UsageError, unknown
from madpipe.patterns.batches import SINGLE_PRECISION_ROWS, scoring_batches
from madpipe.pipeline.ensemble import Ensemble, load_ensemble
from madpipe.pipeline.fold import load_fold
from madpipe.pipeline.folder import verify
from madpipe.pipeline.stored_decomposition import load_decomposition
from madpipe.pipeline.stored_target import load_written_target
from madpipe.scores import anomaly_score

Floats = NDArray[np.float64]
NAMED_BELOW = 0.05  # p-value up to which inputs are unusual enough to say where


@dataclass(frozen=True)
class Scored:
    """One batch. Anomaly scores, the members' too: higher = worse. p-values: small for anomalies."""

    anomaly_score: Floats
    p_value: Floats
    members: dict[str, Floats]
    top_components: list[list[str]]


class Pipeline:
    """Immutable after loading, but for `memory_limit`; `score` may be called from several threads, one at a time goes
    through.
    """

    def __init__(self, ensemble: Ensemble, config: Mapping[str, Any], facts: Mapping[str, Any]):
        self.ensemble = ensemble
        self.config = dict(config)
        self.facts = dict(facts)
        self.input_shape: tuple[int, ...] = tuple(facts["input_shape"])
        self.key: str | None = facts["key"]
        self.columns: list[str] | None = facts.get("columns")  # of the trusted table; older manifests have none
        self.memory_limit: int | None = None  # rows that are scored at once, since twice as many did not fit
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Pipeline":
        """Verify every digest, then build. The target's factory, copied into the folder or importable, is executed.

        DamagedFileError where files agree with their digests and not with each other: written by something else.
        """
        facts = verify(folder)
        chosen = usable_device(device)
        try:
            return cls._built(folder, facts, chosen)
        except (MadpipeError, MemoryError):
            raise
        except Exception as error:  # what misfits may raise anything, anywhere in torch
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise DamagedFileError(f"{folder}: its files do not fit each other ({reason}); fit it again.") from error

    @classmethod
    def _built(cls, folder: Path, facts: Mapping[str, Any], chosen: torch.device) -> "Pipeline":
        config = _read_config(folder / "config.yaml")
        loaded = load_written_target(folder / "target", facts["target"])
        dtype = torch.float64 if facts["precision"] == "float64" else torch.float32
        folds = []
        for k in range(facts["folds"]):
            place = folder / "folds" / str(k)
            method = load_decomposition(place / "decomposition", loaded.module)
            folds.append(load_fold(place, method.to(device=chosen, dtype=dtype), config, facts["seed"]))
        return cls(load_ensemble(folder / "ensemble", folds, facts["crossed"]), config, facts)

    @property
    def method(self) -> Method:
        """The first fold's decomposition."""
        return self.ensemble.folds[0].observer.method

    @property
    def calibration_size(self) -> int:
        """Trusted rows a new input is ranked among, over all folds."""
        return self.ensemble.calibration.size

    @property
    def member_names(self) -> list[str]:
        return self.ensemble.member_names

    @property
    def batch_size(self) -> int:
        return int(self.config["scoring"]["batch_size"])

    def score_flagging(self, x: NDArray[np.float32], alpha: float) -> Scored:
        """`score`, with parts named for every input that level `alpha` flags and those not far from it."""
        return self.score(x, max(alpha, NAMED_BELOW))

    @torch.no_grad()
    def score(self, x: NDArray[np.float32], named_below: float = 1.0) -> Scored:
        """Scores, p-values, member scores and top components of x [B, ...], in order, whatever else is in the batch.

        Parts are named for inputs whose p-value is at most `named_below`; of the others `top_components` is empty.
        """
        with self._lock:
            return _joined(self._score_parts(self._tensor(x), named_below))

    def _score_parts(self, x: Tensor, named_below: float) -> list[Scored]:
        """In batches as large as memory has allowed so far; one that turns out too large is begun again, in halves.

        MemoryShortError where not even the smallest batch fits: in double precision a row, in single precision the
        fixed number of rows that keeps scores independent of it (law 3).
        """
        while True:
            size = min(self.memory_limit or len(x), len(x)) or 1
            try:
                batches = scoring_batches(x, size)
                return [self._score_batch(part, count, named_below) for part, count in batches]
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if size == 1 or x.dtype != torch.float64:
                    raise MemoryShortError(_too_little(x)) from error
                self.memory_limit = size // 2

    def _score_batch(self, x: Tensor, count: int, named_below: float) -> Scored:
        """Of the first `count` rows of x."""
        observations = self.ensemble.observer.observe(x)
        scores = {name: own[:, :count] for name, own in self.ensemble.member_scores(observations).items()}
        p_value = self.ensemble.p_values(scores)
        top_components: list[list[str]] = [[] for _ in p_value]
        named = np.flatnonzero(p_value <= named_below)
        top = self.ensemble.folds[0].involvement.top(observations[0], self.config["scoring"]["top"], named)
        for i, names in zip(named, top, strict=True):
            top_components[i] = names
        return Scored(
            anomaly_score=anomaly_score(self.ensemble.combined(scores)),
            p_value=p_value,
            members={name: anomaly_score(by_fold.mean(0)) for name, by_fold in scores.items()},
            top_components=top_components,
        )

    def member_p_values(self, x: NDArray[np.float32]) -> dict[str, Floats]:
        """p-values of each member's own score, ranked among its own calibration scores: name -> [B]."""
        return self.ensemble.member_p_values(self.ensemble.scores_of(self._tensor(x), self.batch_size))

    def _tensor(self, x: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.method.model.V[0])


def _out_of_memory(error: Exception) -> bool:
    """torch has a kind of its own for accelerators alone; what its CPU allocator raises tells by its text."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in said


def _too_little(x: Tensor) -> str:
    rows = "one input" if x.dtype == torch.float64 else f"{SINGLE_PRECISION_ROWS} inputs, the least at once,"
    return f"memory is too short to score {rows} of shape {tuple(x.shape[1:])}; free some, or use another --device."


def _joined(parts: Sequence[Scored]) -> Scored:
    """Consecutive batches as one."""
    if len(parts) == 1:
        return parts[0]
    return Scored(
        anomaly_score=np.concatenate([part.anomaly_score for part in parts]),
        p_value=np.concatenate([part.p_value for part in parts]),
        members={name: np.concatenate([part.members[name] for part in parts]) for name in parts[0].members},
        top_components=[names for part in parts for names in part.top_components],
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_document(path)
    except UsageError as error:  # of the folder, not of who named it
        raise DamagedFileError(str(error)) from None


def usable_device(name: str) -> torch.device:
    """The device called `name`; UnknownNameError unless this machine has it."""
    known = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    if name.partition(":")[0] not in known:
        raise unknown("usable device", name, known)
    try:
        return torch.device(name)
    except RuntimeError:
        raise unknown("usable device", name, known) from None
