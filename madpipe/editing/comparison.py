"""What an edit did to a network's outputs, both networks run as their users run them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madpipe.decomposition.losses import OutputMetric
from madpipe.editing.decisions import divergence, readable, same_decision


@dataclass(frozen=True)
class Change:
    """rows: inputs compared; changed: of these, with another decision (None in regression); divergence:
    mean KL(before || after) in nats.
    """

    rows: int
    changed: int | None
    divergence: float


def compare(
    before: nn.Module, after: nn.Module, x: NDArray[np.float32], metric: OutputMetric, batch_size: int
) -> Change:
    """On inputs x [n, ...]."""
    first, second = (_outputs(module, x, batch_size) for module in (before, after))
    same = same_decision(readable(first, metric), readable(second, metric), metric)
    changed = None if metric.kind == "regression" else int((~same).sum())
    return Change(len(x), changed, float(divergence(first, second, metric).mean()))


@torch.no_grad()
def _outputs(module: nn.Module, x: NDArray[np.float32], batch_size: int) -> Tensor:
    """Raw outputs [n, ..., O] in the module's own precision, then float64."""
    rows = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return torch.cat([module(part) for part in rows.split(batch_size)]).double()
