"""The active (input, component) pairs of a batch, gathered by component: work for these alone.

With k of C components active per input, a site costs about k/C of what it would with every slot computed and masked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.layers import SiteOperation


@dataclass(frozen=True)
class ActivePairs:
    """`rows` [S*C, n] of S*B inputs on which each component is active, filled up to the largest count n with row 0;
    `filled` [S*C, n] is one where a pair is real. S instances, C components of m slots each.
    """

    rows: Tensor
    filled: Tensor
    inputs: int

    @property
    def densest(self) -> int:
        """n: on how many inputs the most active component is on."""
        return self.rows.shape[1]


def active_pairs(active: Tensor) -> ActivePairs:
    """Of a 0/1 mask [S, B, C]."""
    S, B, C = active.shape
    by_component = (active > 0).transpose(1, 2).reshape(S * C, B)
    counts = by_component.sum(1)
    component, row = by_component.nonzero(as_tuple=True)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(component), device=active.device) - starts[component]
    rows = active.new_zeros(S * C, max(int(counts.max()), 1), dtype=torch.long)
    filled = active.new_zeros(rows.shape)
    rows[component, place] = component // C * B + row
    filled[component, place] = 1.0
    return ActivePairs(rows, filled, S * B)


def written_by_pairs(operation: SiteOperation, x: Tensor, V: Tensor, U: Tensor, pairs: ActivePairs) -> Tensor:
    """Sum of active components' outputs for x [S*B, ...], V [S, I, K], U [S, K, O], without bias: [S*B, ...]."""
    groups, flat = len(pairs.rows), pairs.rows.flatten()
    C = groups // len(V)
    read = V.unflatten(2, (C, -1)).transpose(1, 2).flatten(0, 1)
    write = U.unflatten(1, (C, -1)).flatten(0, 1)
    inner = operation.inner(x.index_select(0, flat), read)
    kept = inner * pairs.filled.view(*pairs.filled.shape, *[1] * (inner.ndim - 2))
    parts = operation.write(kept, write)
    return parts.new_zeros(pairs.inputs, *parts.shape[1:]).index_add(0, flat, parts)
