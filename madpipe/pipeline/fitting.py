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

from madpipe.components.sites import Site
from madpipe.data.splits import SPLIT_ROWS, Split, fold_rows, split_rows
from madpipe.decomposition.decompose import decompose
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.quality import quality
from madpipe.pipeline.fold import Fold, fit_fold

CHUNK = 512  # rows per pass when quality is measured


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """What is fitted, on what: x [N, ...] float32 trusted rows; `config` is the resolved config."""

    target: nn.Module
    sites: Sequence[Site]
    output: str
    method_class: type[Method]
    method_config: MethodConfig
    x: Tensor
    splits: Sequence[Split]
    config: Mapping[str, Any]
    seed: int
    checkpoints: Path
    trainer_options: Mapping[str, Any]


def make_splits(row_count: int, calibration: Mapping[str, Any], seed: int) -> list[Split]:
    """One split, or K folds below 200 rows. TooFewRowsError below 20."""
    if row_count < SPLIT_ROWS:
        return fold_rows(row_count, min(calibration["folds"], row_count // 4) if row_count >= 20 else 2, seed)
    return [
        split_rows(
            row_count,
            seed,
            calibration_rows=calibration["calibration_size"],
            validation_rows=calibration["validation_size"],
        )
    ]


def fit_folds(
    plan: FitPlan, progress: Callable[[int, int, Mapping[str, float]], None], logger: Any = False
) -> tuple[list[Fold], list[dict[str, float]], str]:
    """(folds, quality of each, precision used). `progress` is told (fold, step, loss terms)."""
    methods, figures = [], []
    for k, split in enumerate(plan.splits):
        method = decompose(
            plan.target,
            plan.sites,
            plan.method_class,
            plan.method_config,
            plan.output,  # type: ignore[arg-type]
            plan.x[torch.from_numpy(split.fit)],
            seed=plan.seed + k,
            checkpoints=plan.checkpoints / str(k),
            trainer_options=plan.trainer_options,
            progress=lambda step, terms, k=k: progress(k, step, terms),  # type: ignore[misc]
            logger=logger if k == 0 else False,
        )
        methods.append(method.cpu())
        figures.append(quality(method, plan.x[torch.from_numpy(split.validation)].split(CHUNK)))
    precision = usable_precision(plan.target, plan.x[:2], plan.config["scoring"]["precision"])
    dtype = torch.float64 if precision == "float64" else torch.float32
    folds = []
    for method, split in zip(methods, plan.splits, strict=True):
        rows = tuple(torch.from_numpy(part) for part in (split.fit, split.validation, split.calibration))
        batch_size = plan.config["scoring"]["batch_size"]
        folds.append(fit_fold(method.to(dtype), plan.config, plan.x, rows, batch_size, plan.seed))  # type: ignore[arg-type]
    return folds, figures, precision


def usable_precision(target: nn.Module, x: Tensor, wanted: str) -> str:
    """float64 unless the target cannot run in it (a constant of its own type inside its forward pass)."""
    if wanted == "float64":
        try:
            copy.deepcopy(target).double()(x.double())
        except (RuntimeError, TypeError):
            return "float32"
    return wanted


def as_rows(x: NDArray[np.float32]) -> Tensor:
    """The same memory as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(x))
