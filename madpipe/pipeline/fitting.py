"""From trusted rows to folds: split, decompose each fold, fit and calibrate its members."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madpipe.data.splits import SPLIT_ROWS, Indices, Split, ensemble_rows, fold_rows, split_rows
from madpipe.decomposition.decompose import decompose
from madpipe.decomposition.grouping import group_subcomponents
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.quality import quality
from madpipe.decomposition.selection import best_seed, select_seed
from madpipe.pipeline.ensemble import Ensemble, fit_ensemble
from madpipe.pipeline.source import Source

CHUNK = 512  # rows per pass when quality is measured
SINGLE_FROM = 100_000  # parameters of a target that is scored in single precision unless told otherwise

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Told (fold, steps done, loss terms)."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How the decompositions of one source are trained, each on the fit rows of a split."""

    source: Source
    method_class: type[Method]
    method_config: MethodConfig
    clustering: Mapping[str, Any]
    seed: int
    checkpoints: Path
    trainer_options: Mapping[str, Any]

    def train(self, split: Split, k: int, progress: Progress, logger: Any = False) -> Method:
        """Every seed of fold `k`'s decomposition with its components, on the CPU; `logger` hears of fold 0 alone."""
        method = decompose(
            self.source.target.module,
            self.source.sites,
            self.method_class,
            self.method_config,
            self.source.target.output,
            rows_of(self.source, split.fit),
            seed=self.seed + k,
            checkpoints=self.checkpoints / str(k),
            trainer_options=self.trainer_options,
            progress=lambda step, terms: progress(k, step, terms),
            logger=logger if k == 0 else False,
        )
        return grouped(method.cpu(), self.source, split, self.clustering)


@dataclass(frozen=True)
class Decomposed:
    """A decomposition of one seed, its quality on validation rows, and the description length of every seed tried."""

    method: Method
    quality: dict[str, float]
    seed: int
    lengths: Sequence[float]


def make_splits(row_count: int, calibration: Mapping[str, Any], seed: int) -> list[Split]:
    """A split for each fold. Below 200 rows folds take turns at calibration. TooFewRowsError below 20."""
    folds, size = calibration["folds"], calibration["calibration_size"]
    if row_count < SPLIT_ROWS:
        return fold_rows(row_count, max(2, min(folds, row_count // 4)), seed)
    if folds > 1:
        return ensemble_rows(row_count, folds, seed, calibration_rows=size)
    return [one_split(row_count, calibration, seed)]


def one_split(row_count: int, calibration: Mapping[str, Any], seed: int) -> Split:
    """The rows of one decomposition by itself; below 200 those of the first fold."""
    if row_count < SPLIT_ROWS:
        return make_splits(row_count, calibration, seed)[0]
    sizes = {"calibration_rows": calibration["calibration_size"], "validation_rows": calibration["validation_size"]}
    return split_rows(row_count, seed, **sizes)


def grouped(method: Method, source: Source, split: Split, clustering: Mapping[str, Any]) -> Method:
    """`method` with the components that a config's `clustering` section finds on the fit rows, evenly spaced ones
    where they are more than it asks for.
    """
    method.clusters = None
    if clustering["enabled"]:
        step = max(len(split.fit) / clustering["rows"], 1.0)
        chosen = split.fit[np.arange(0, len(split.fit), step).astype(int)]
        how = {key: clustering[key] for key in ("alpha", "threshold", "restarts")}
        group_subcomponents(method, chunks_of(source, chosen), **how)
    return method


def best_of_seeds(method: Method, validation: Sequence[Tensor]) -> Decomposed:
    """The seed that describes validation rows, in chunks [B, ...], most briefly."""
    if method.seeds == 1:
        return Decomposed(method, quality(method, validation), 0, ())
    seed, lengths = best_seed(method, validation)
    alone = select_seed(method, seed)
    return Decomposed(alone, quality(alone, validation), seed, lengths)


def fit_pipeline(
    methods: Sequence[Method], source: Source, splits: Sequence[Split], config: Mapping[str, Any]
) -> tuple[Ensemble, str]:
    """(the ensemble of a fold for each method and split, precision used); `config` is the resolved config."""
    x = as_rows(source.trusted)
    precision = usable_precision(source.target.module, x[:2], config["scoring"]["precision"])
    dtype = torch.float64 if precision == "float64" else torch.float32
    return fit_ensemble([method.to(dtype) for method in methods], config, x, splits), precision


def usable_precision(target: nn.Module, x: Tensor, wanted: str) -> str:
    """float64 or float32. Where float64 is wanted and the target cannot run in it (a constant of its own type inside
    its forward pass), float32; `auto` wants float64 below SINGLE_FROM parameters.
    """
    if wanted == "auto":
        wanted = "float32" if sum(p.numel() for p in target.parameters()) >= SINGLE_FROM else "float64"
    if wanted == "float64":
        try:
            copy.deepcopy(target).double()(x.double())
        except (RuntimeError, TypeError):
            return "float32"
    return wanted


def as_rows(x: NDArray[np.float32]) -> Tensor:
    """The same memory as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(x))


def rows_of(source: Source, indices: Indices) -> Tensor:
    """Trusted rows [n, ...]."""
    return as_rows(source.trusted)[torch.from_numpy(indices)]


def chunks_of(source: Source, indices: Indices) -> Sequence[Tensor]:
    """Trusted rows in chunks [B, ...]."""
    return rows_of(source, indices).split(CHUNK)
