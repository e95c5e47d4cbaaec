"""Pipeline: the fitted whole, loaded from its folder, that scores inputs."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from madpipe.decomposition.method import Method
from madpipe.errors import DamagedFileError, unknown
from madpipe.patterns.batches import scoring_batches
from madpipe.pipeline.ensemble import Ensemble, load_ensemble
from madpipe.pipeline.fold import load_fold
from madpipe.pipeline.folder import verify
from madpipe.pipeline.stored_decomposition import load_decomposition
from madpipe.pipeline.stored_target import load_written_target
from madpipe.scores import anomaly_score

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One batch. Anomaly scores, the members' too: higher = worse. p-values: small for anomalies."""

    anomaly_score: Floats
    p_value: Floats
    members: dict[str, Floats]
    top_components: list[list[str]]


class Pipeline:
    """Immutable after loading; `score` may be called from several threads, one at a time goes through."""

    def __init__(self, ensemble: Ensemble, config: Mapping[str, Any], facts: Mapping[str, Any]):
        self.ensemble = ensemble
        self.config = dict(config)
        self.facts = dict(facts)
        self.input_shape: tuple[int, ...] = tuple(facts["input_shape"])
        self.key: str | None = facts["key"]
        self.columns: list[str] | None = facts.get("columns")  # of the trusted table; older manifests have none
        self._lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Pipeline":
        """Verify every digest, then build. The target's factory, copied into the folder or importable, is executed."""
        facts = verify(folder)
        chosen = usable_device(device)
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

    @torch.no_grad()
    def score(self, x: NDArray[np.float32], named_below: float = 1.0) -> Scored:
        """Scores, p-values, member scores and top components of x [B, ...], in order, whatever else is in the batch.

        Parts are named for inputs whose p-value is at most `named_below`; of the others `top_components` is empty.
        """
        with self._lock:
            batches = scoring_batches(self._tensor(x), max(len(x), 1))
            return _joined([self._score_batch(part, count, named_below) for part, count in batches])

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
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise DamagedFileError(f"{path}: not a readable YAML file.") from None
    if not isinstance(config, dict):
        raise DamagedFileError(f"{path}: holds no config.")
    return config


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
