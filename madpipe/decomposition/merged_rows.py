"""Inputs on which masks have no effect, of which a batch needs one.

Where every site reads zeros, slots and delta write zeros under any mask: the masked pass is the clean one, exactly, and
importances are those of any other such input. Of sparse features many inputs have none. They are merged into one row,
which weighs in means as much as all of them. It is assumed, as everywhere here, that a network's rows are independent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel

SHAPES = 64  # counts of rows that batches come in: bfloat16 products are compiled anew for each on a CPU


@dataclass(frozen=True)
class MergedRows:
    """Which of `drawn` rows stand in a batch, `index` [S, B], and their `weights` [S, B] in means; these sum to one."""

    index: Tensor
    weights: Tensor
    drawn: int

    def of(self, whole: Tensor) -> Tensor:
        """[S, drawn, ...] -> [S, B, ...]."""
        firsts = torch.arange(len(whole), device=whole.device)[:, None] * self.drawn
        rows = whole.flatten(0, 1).index_select(0, (self.index + firsts).flatten())
        return rows.view(*self.index.shape, *whole.shape[2:])

    def mean(self, values: Tensor) -> Tensor:
        """Over all rows drawn and over positions: [S, B, ...] -> [S]."""
        per_row = values.flatten(2).mean(2) if values.ndim > 2 else values
        return (self.weights * per_row).sum(1)


def merge_zero_rows(x: Tensor) -> MergedRows | None:
    """Rows of x [S, drawn, ...] that are zero everywhere become one, the last; None where that would save none.

    Some of them stay for themselves: instances keep equally many rows, and a count that is one of a few.
    """
    somewhere = x.flatten(2).abs().sum(2) != 0
    drawn = x.shape[1]
    unit = max(drawn // SHAPES, 1)
    kept = unit * -(-(int(somewhere.sum(1).max()) + 1) // unit)
    if kept >= drawn:
        return None
    index = _true_first(somewhere)[:, :kept]
    weights = torch.full(index.shape, 1 / drawn, device=x.device)
    weights[:, -1] += (drawn - kept) / drawn
    return MergedRows(index, weights, drawn)


def _true_first(flags: Tensor) -> Tensor:
    """Columns of bool [S, n] by row, those that are true first, each kind in order: [S, n]; no sort is needed."""
    before = flags.cumsum(1)
    columns = torch.arange(1, flags.shape[1] + 1, device=flags.device).expand_as(before)
    place = torch.where(flags, before, before[:, -1:] + columns - before) - 1
    return torch.empty_like(place).scatter_(1, place, columns - 1)


@torch.no_grad()
def silent_at_zero(model: ComponentModel, like: Tensor) -> bool:
    """Whether all that sites read, at each of their uses, is zero for an input of zeros of the shape of `like`."""
    read: list[bool] = []

    def note(index: int, site_input: Tensor, written: Tensor) -> Tensor:
        read.append(bool(site_input.any()))
        return written

    model.perturbed_forward(torch.zeros_like(like)[None], note)
    return not any(read)
