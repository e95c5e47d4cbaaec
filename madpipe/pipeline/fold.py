"""A fold: one decomposition with the extractors and members that read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.components.checkpoint import load_tensors, save_tensors
from madpipe.decomposition.method import Method
from madpipe.detectors import storage
from madpipe.errors import DamagedFileError
from madpipe.patterns.extractor import Extractor
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import Observation, Observer
from madpipe.pipeline.members import Member, build_extractors

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    observer: Observer
    extractors: Mapping[str, Extractor]
    members: tuple[Member, ...]
    involvement: Involvement

    @property
    def shares_extractors(self) -> bool:
        """Whether the other folds' extractors are the same as its own."""
        return all(extractor.shared for extractor in self.extractors.values())

    def member_scores(self, observation: Observation) -> dict[str, Floats]:
        """Each member's score_samples: higher = more normal, [B]."""
        patterns = {name: extractor.extract(observation) for name, extractor in self.extractors.items()}
        return {member.name: member.score_samples(patterns) for member in self.members}


def save_fold(fold: Fold, folder: Path) -> None:
    """Extractors, detectors and the parts' scales under `folder`."""
    for part in ("extractors", "detectors"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, extractor in fold.extractors.items():
        if extractor.state():
            save_tensors(extractor.state(), folder / "extractors" / f"{name}.safetensors")
    for member in fold.members:
        storage.save(member.detector, folder / "detectors" / f"{member.name}.skops")
    save_tensors(fold.involvement.state(), folder / "involvement.safetensors")


def load_fold(folder: Path, method: Method, config: Mapping[str, Any], seed: int) -> Fold:
    observer = Observer(method)
    extractors = build_extractors(config["patterns"], method, seed)
    for name, extractor in extractors.items():
        path = folder / "extractors" / f"{name}.safetensors"
        if path.exists():
            extractor.restore(load_tensors(path))
    members = tuple(_load_member(name, spec, folder) for name, spec in config["detectors"]["members"].items())
    involvement = Involvement(observer, config["scoring"].get("view", "subcomponents"))  # absent in older configs
    _restore_scales(involvement, folder / "involvement.safetensors")
    return Fold(observer, extractors, members, involvement)


def _restore_scales(involvement: Involvement, path: Path) -> None:
    tensors = load_tensors(path)
    if set(tensors) != set(involvement.learned):
        raise DamagedFileError(f"{path}: does not hold the parts' scales.")
    involvement.restore(tensors)


def _load_member(name: str, spec: Mapping[str, Any], folder: Path) -> Member:
    if Path(name).name != name:
        raise DamagedFileError(f"{folder}: the member name {name!r} leads out of the folder.")
    return Member(
        name=name,
        patterns=spec["patterns"],
        features=tuple(spec["features"]),
        combine=spec["combine"],
        detector=storage.load(folder / "detectors" / f"{name}.skops"),
    )
