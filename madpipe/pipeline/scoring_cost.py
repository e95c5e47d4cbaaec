"""What scoring costs beside the target's own forward pass, on the same inputs in the same batches."""

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from madpipe.patterns.batches import SINGLE_PRECISION_ROWS
from madpipe.pipeline.scorer import Pipeline

REPEATS, ROWS = 5, 2048
ALPHA = 0.01

Rows = NDArray[np.float32]


def scoring_cost(pipeline: Pipeline, x: Rows) -> dict[str, float]:
    """`wall_ratio`: wall time of scoring at a level of ALPHA over that of the target's float32 pass without gradients.

    Both are medians of interleaved repeats on ROWS inputs, x [N, ...] over again where it is shorter, in the
    pipeline's batches. `evaluations`: how often scoring runs the target, or a rebuilt or masked form of it, for each
    input.
    """
    x = np.resize(x, (ROWS, *x.shape[1:])) if len(x) < ROWS else x[:ROWS]
    target = copy.deepcopy(pipeline.method.model.target).float()
    with _rows_run(pipeline) as run:
        pipeline.score_flagging(x[:SINGLE_PRECISION_ROWS], ALPHA)
    evaluations, forward, scoring = sum(run) / SINGLE_PRECISION_ROWS, [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        _plain(target, x, pipeline.batch_size)
        middle = time.perf_counter()
        for i in range(0, ROWS, pipeline.batch_size):
            pipeline.score_flagging(x[i : i + pipeline.batch_size], ALPHA)
        forward.append(middle - started)
        scoring.append(time.perf_counter() - middle)
    plain, whole = statistics.median(forward), statistics.median(scoring)
    seconds = {"forward_seconds_per_1000": plain * 1000 / ROWS, "scoring_seconds_per_1000": whole * 1000 / ROWS}
    return {"wall_ratio": whole / plain, "evaluations": evaluations} | seconds


@torch.no_grad()
def _plain(target: nn.Module, x: Rows, size: int) -> None:
    for i in range(0, len(x), size):
        target(torch.from_numpy(x[i : i + size]))


@contextmanager
def _rows_run(pipeline: Pipeline) -> Iterator[list[int]]:
    """The rows of each pass through a target of the pipeline's folds."""
    rows: list[int] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        rows.append(len(arguments[0]))

    targets = {id(t): t for t in (fold.observer.method.model.target for fold in pipeline.ensemble.folds)}
    hooks = [target.register_forward_pre_hook(note) for target in targets.values()]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
