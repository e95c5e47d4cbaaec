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

from madpipe.detectors.conformal import cross_p_values
from madpipe.errors import DamagedFileError, unknown
from madpipe.pipeline.fold import Fold, load_fold
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

    def __init__(self, folds: Sequence[Fold], config: Mapping[str, Any], facts: Mapping[str, Any]):
        self.folds = list(folds)
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
        return cls(folds, config, facts)

    @property
    def calibration_size(self) -> int:
        """Trusted rows a new input is ranked among, over all folds."""
        return sum(len(fold.calibration) for fold in self.folds)

    @property
    def member_names(self) -> list[str]:
        return [member.name for member in self.folds[0].members.members]

    @property
    def batch_size(self) -> int:
        return int(self.config["scoring"]["batch_size"])

    @torch.no_grad()
    def score(self, x: NDArray[np.float32]) -> Scored:
        """Scores, p-values, member scores and top components of x [B, ...], in order, whatever else is in the batch."""
        with self._lock:
            like = self.folds[0].observer.method.model.V[0]
            batch = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(like)
            observations = [fold.observe(batch) for fold in self.folds]
            parts = [fold.members.score(seen) for fold, seen in zip(self.folds, observations, strict=True)]
            combined = np.stack([part[0] for part in parts])
            names = parts[0][1]
            return Scored(
                anomaly_score=anomaly_score(combined.mean(0)),
                p_value=cross_p_values(combined, [fold.calibration for fold in self.folds]),
                members={name: anomaly_score(np.stack([part[1][name] for part in parts]).mean(0)) for name in names},
                top_components=self.folds[0].involvement.top(observations[0], self.config["scoring"]["top"]),
            )

    def member_p_values(self, x: NDArray[np.float32]) -> dict[str, Floats]:
        """p-values of each member's own score, ranked among its own calibration scores: name -> [B]."""
        like = self.folds[0].observer.method.model.V[0]
        batch = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(like)
        per_fold = [fold.score(batch, self.batch_size)[1] for fold in self.folds]
        return {
            name: cross_p_values(
                np.stack([scores[name] for scores in per_fold]), [fold.member_calibration[name] for fold in self.folds]
            )
            for name in self.member_names
        }


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
