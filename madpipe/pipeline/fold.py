"""A fold: one decomposition with its members, and the trusted scores a new input is ranked against.

A pipeline has one fold, or several where trusted data were too few to split (cross-fitting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.components.checkpoint import load_tensors, save_tensors
from madpipe.data.inputs import read_array
from madpipe.decomposition.method import Method
from madpipe.detectors import storage
from madpipe.errors import DamagedFileError
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import Observation, Observer
from madpipe.pipeline.members import Member, MemberSet, build_extractors, fit_members

Floats = NDArray[np.float64]


@dataclass
class Fold:
    observer: Observer
    members: MemberSet
    involvement: Involvement
    calibration: Floats  # score_samples of this fold's calibration rows: higher = more normal
    member_calibration: dict[str, Floats]

    def observe(self, x: Tensor) -> Observation:
        return self.observer.observe(x)

    @torch.no_grad()
    def score(self, x: Tensor, batch_size: int) -> tuple[Floats, dict[str, Floats]]:
        """Combined and member scores of x [N, ...], higher = more normal."""
        parts = [self.members.score(observation) for observation in self.observer.batches(x, batch_size)]
        names = list(parts[0][1])
        return np.concatenate([p[0] for p in parts]), {n: np.concatenate([p[1][n] for p in parts]) for n in names}

    def calibrate(self, x: Tensor, batch_size: int) -> None:
        """Rank against x from now on: rows that nothing in this fold was fitted on."""
        self.calibration, self.member_calibration = self.score(x, batch_size)


@torch.no_grad()
def fit_fold(
    method: Method,
    config: Mapping[str, Any],
    x: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    batch_size: int,
    seed: int,
) -> Fold:
    """Fit members on a settled decomposition and calibrate; `rows` are fit, validation, calibration indices into x."""
    observer = Observer(method)
    fit, validation = (list(observer.batches(x[index], batch_size)) for index in rows[:2])
    extractors = build_extractors(config["patterns"], method, seed)
    members = fit_members(config["detectors"], extractors, fit, validation)
    involvement = Involvement(observer, config["scoring"]["view"])
    involvement.fit(validation)
    fold = Fold(observer, members, involvement, np.empty(0), {})
    fold.calibrate(x[rows[2]], batch_size)
    return fold


def save_fold(fold: Fold, folder: Path) -> None:
    """Extractors, detectors and the parts' scales under `folder`; calibration scores in calibration.npz."""
    for part in ("extractors", "detectors"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, extractor in fold.members.extractors.items():
        if extractor.state():
            save_tensors(extractor.state(), folder / "extractors" / f"{name}.safetensors")
    for member in fold.members.members:
        storage.save(member.detector, folder / "detectors" / f"{member.name}.skops")
    storage.save(fold.members.combiner, folder / "combiner.skops")
    save_tensors(fold.involvement.state(), folder / "involvement.safetensors")
    save_calibration(fold, folder)


def save_calibration(fold: Fold, folder: Path) -> None:
    members: dict[str, Any] = {f"member:{name}": scores for name, scores in fold.member_calibration.items()}
    np.savez(folder / "calibration.npz", combined=fold.calibration, **members)


def load_fold(folder: Path, method: Method, config: Mapping[str, Any], seed: int) -> Fold:
    observer = Observer(method)
    extractors = build_extractors(config["patterns"], method, seed)
    for name, extractor in extractors.items():
        path = folder / "extractors" / f"{name}.safetensors"
        if path.exists():
            extractor.restore(load_tensors(path))
    members = [_load_member(name, spec, folder) for name, spec in config["detectors"]["members"].items()]
    involvement = Involvement(observer, config["scoring"].get("view", "subcomponents"))  # absent in older configs
    _restore_scales(involvement, folder / "involvement.safetensors")
    member_set = MemberSet(extractors, members, storage.load(folder / "combiner.skops"))
    return Fold(observer, member_set, involvement, *_load_calibration(folder, [member.name for member in members]))


def _load_calibration(folder: Path, member_names: Sequence[str]) -> tuple[Floats, dict[str, Floats]]:
    path = folder / "calibration.npz"
    return read_array(path, "combined"), {name: read_array(path, f"member:{name}") for name in member_names}


def _restore_scales(involvement: Involvement, path: Path) -> None:
    tensors = load_tensors(path)
    if set(tensors) != set(involvement.learned):
        raise DamagedFileError(f"{path}: does not hold the parts' scales.")
    involvement.restore(tensors)


def _load_member(name: str, spec: Mapping[str, Any], folder: Path) -> Member:
    return Member(
        name=name,
        patterns=spec["patterns"],
        features=tuple(spec["features"]),
        combine=spec["combine"],
        detector=storage.load(folder / "detectors" / f"{name}.skops"),
    )
