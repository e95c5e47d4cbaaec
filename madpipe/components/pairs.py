"""The active (input, component) pairs of a batch, gathered by component: work for these alone.

With k of C components active per input, a site costs about k/C of what it would with every slot computed and masked.
Pairs of one component fill tiles of equal height, so that a batched product holds them all, though components may be
active on very different numbers of inputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from madpipe.components.layers import SiteOperation

HEIGHTS = (8, 16, 32, 64, 128, 256)
COPIED = 16  # inputs in a tile whose products take as long as copying a component's slots to it does


@dataclass(frozen=True)
class ActivePairs:
    """`rows` [T, n] of S*B inputs, tile by tile, each of one component, filled up to its height n with row 0.

    `empty` lists the places of tiles that hold no pair; `places` the others, by input, those of input b from
    `starts[b]` on. `components` [T] of `groups` = S*C, or None where each has one tile, in order. S instances, C
    components of m slots each.
    """

    rows: Tensor
    empty: Tensor
    places: Tensor
    starts: Tensor
    components: Tensor | None
    groups: int

    @property
    def size(self) -> int:
        """How many pairs are computed, those that fill tiles among them."""
        return self.rows.numel()


def active_pairs(active: Tensor) -> ActivePairs:
    """Of a bool mask [S, B, C]."""
    S, B, C = active.shape
    pair = active.flatten().nonzero()[:, 0]
    row = pair // C
    component = row // B * C + pair % C
    so_far = active.cumsum(1, dtype=torch.int32)  # places follow from it without a sort
    counts = so_far[:, -1].flatten().long()
    height, single = _tile_height(counts)
    tiles = torch.ones_like(counts) if single else -(-counts // height)
    firsts = (tiles.cumsum(0) - tiles) * height - 1
    places = so_far.flatten().index_select(0, pair) + firsts.index_select(0, component)
    rows = row.new_full((int(tiles.sum()), height), -1)
    rows.view(-1)[places] = row
    empty = (rows.view(-1) < 0).nonzero()[:, 0]
    per_row = torch.bincount(row, minlength=S * B)
    components = None if single else torch.arange(S * C, device=active.device).repeat_interleave(tiles)
    return ActivePairs(rows.clamp_(min=0), empty, places, per_row.cumsum(0) - per_row, components, S * C)


def _tile_height(counts: Tensor) -> tuple[int, bool]:
    """The height that costs least for components active on `counts` [S*C] inputs; whether each has one tile of it."""
    densest = max(int(counts.max()), 1)
    heights = torch.tensor([height for height in HEIGHTS if height < densest], device=counts.device)
    costs = (-(-counts // heights[:, None])).sum(1) * (heights + COPIED)
    if len(heights) and int(costs.min()) < densest * len(counts):
        return int(heights[costs.argmin()]), False
    return densest, True


def written_by_pairs(operation: SiteOperation, x: Tensor, V: Tensor, U: Tensor, pairs: ActivePairs) -> Tensor:
    """Sum of active components' outputs for x [S*B, ...], V [S, I, K], U [S, K, O], without bias: [S*B, ...]."""
    C = pairs.groups // len(V)
    read = V.unflatten(2, (C, -1)).transpose(1, 2).flatten(0, 1)
    write = U.unflatten(1, (C, -1)).flatten(0, 1)
    if pairs.components is not None:
        read, write = read.index_select(0, pairs.components), write.index_select(0, pairs.components)
    inner = operation.inner(_Gathered.apply(x, pairs), read)
    parts: Tensor = operation.write(inner, write)
    written: Tensor = _Spread.apply(parts.flatten(1), pairs)
    return written.view(-1, *parts.shape[1:])


class _Gathered(torch.autograd.Function):
    """[S*B, ...] -> [T*n, ...]: what each place of the tiles reads, zeros where it holds no pair."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: ActivePairs) -> Tensor:
        ctx.pairs = pairs
        return _gather(x, pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient.flatten(1), ctx.pairs).view(-1, *gradient.shape[1:]), None


class _Spread(torch.autograd.Function):
    """[T*n, N] -> [S*B, N]: the sum of all places of an input."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, pairs: ActivePairs) -> Tensor:
        ctx.pairs = pairs
        return _spread(parts, pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gather(gradient, ctx.pairs), None


def _gather(values: Tensor, pairs: ActivePairs) -> Tensor:
    return values.index_select(0, pairs.rows.flatten()).index_fill_(0, pairs.empty, 0.0)


def _spread(parts: Tensor, pairs: ActivePairs) -> Tensor:
    """A bag of places for each input: several times as fast as adding place by place."""
    return functional.embedding_bag(pairs.places, parts, pairs.starts, mode="sum")
