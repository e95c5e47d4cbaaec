"""Components as clusters of subcomponents: those that fire together are grouped where that shortens the description.

Bushnaq et al., *Interpreting Language Model Parameters* (2026): a group is active on an input where any member is (OR),
and naming the active groups of an input costs sum_i s_i (log2 k + alpha r_i) bits, where s_i is the share of inputs on
which group i is active, k the number of groups, r_i the ranks of i's members together. Merging i and j adds

    alpha (r_j (s_i - s_ij) + r_i (s_j - s_ij)) - s_ij log2(k - 1)  +  (sum of all s) log2((k - 1) / k),

s_ij the share on which both are active. The last term is the same for all pairs, yet it makes groups merge that never
fire together once they are rare enough; alpha weighs against that.

Here: merging goes on, uphill too, until no later assignment can be cheaper, and the cheapest of the path is kept.
Subcomponents active on exactly the same inputs are one from the start: some optimum always has them together (where
two groups share them, giving them all to the rarer one costs nothing). The order of subcomponents changes nothing.

Nothing is moved between groups after merging, so the result is a good assignment, not the best.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Clustering:
    """`groups`: sorted indices into K, the most often active group first. `dead`: never active, in no group.

    `bits`: cost per input (mean over the rows), not counting the description of the groups themselves.
    """

    groups: tuple[tuple[int, ...], ...]
    dead: tuple[int, ...]
    bits: float
    alpha: float

    def labels(self) -> Tensor:
        """The group of each subcomponent: [K] long, -1 for dead ones."""
        labels = torch.full((sum(map(len, self.groups)) + len(self.dead),), -1)
        for group, members in enumerate(self.groups):
            labels[list(members)] = group
        return labels


def cluster(
    active: Tensor,
    *,
    alpha: float = 1.0,
    ranks: Tensor | None = None,
    restarts: int = 0,
    spread: float = 0.2,
    generator: torch.Generator | None = None,
) -> Clustering:
    """Group the columns of `active` [N, K] bool, such as `importances > 0.01` (the paper's threshold) over all sites.

    Larger alpha, finer groups. `ranks` [K] are 1 each unless given. Beside the greedy path, `restarts` paths are tried
    that take, step by step, a random one of the merges that come within `spread` of the cheapest's change of the cost
    (a share of it); the default generator is seeded with 0.
    """
    assert (active.ndim, active.dtype) == (2, torch.bool), (active.shape, active.dtype)
    assert len(active) > 0, "no input, no activity"
    assert alpha >= 0, alpha
    activity = _packed(active)
    alive, dead = np.flatnonzero(activity.any(1)), np.flatnonzero(~activity.any(1))
    distinct, which = _distinct(activity[alive])
    rank_sums = np.bincount(which, None if ranks is None else ranks.cpu().double().numpy()[alive], len(distinct))
    start = _Grouping(distinct, rank_sums.astype(np.float64), alpha)
    generator = generator or torch.Generator().manual_seed(0)
    found = _follow(start, _Grouping.cheapest_merge, (start.cost(), start.labels))
    for _ in range(restarts):
        found = _follow(start, lambda grouping: grouping.cheap_merge(spread, generator), found)
    cost, labels = found
    return Clustering(_members(activity, alive, labels[which]), tuple(dead.tolist()), cost / len(active), alpha)


def description_length(
    active: Tensor, groups: Sequence[Sequence[int]], alpha: float = 1.0, ranks: Tensor | None = None
) -> float:
    """Bits per input of `groups` on `active` [N, K] bool, from the definition: sum_i s_i (log2 k + alpha r_i)."""
    bits = 0.0
    for members in map(list, groups):
        rank = len(members) if ranks is None else float(ranks[members].sum())
        bits += float(active[:, members].any(1).double().mean()) * (math.log2(len(groups)) + alpha * rank)
    return bits


class _Grouping:
    """Groups on their way from single subcomponents to one group. Costs are in bits over all inputs, not per input.

    `activity` [k, words]: a bit per input. `sizes` [k]: on how many inputs a group is active; `together` [k, k]: on how
    many two both are. `floor` [k]: what the cheapest merge of a group costs at least. `labels`: the group of each
    subcomponent.

    A merge's cost only rises as k falls, as it saves s_ij log2(k - 1). So `floor`, the cost found some merges ago,
    stays a lower bound, and only rows that look cheapest are computed anew: O(k) a merge instead of O(k^2).
    """

    def __init__(self, activity: NDArray[np.uint64], ranks: Floats, alpha: float) -> None:
        self.activity, self.ranks, self.alpha = activity.copy(), ranks.copy(), alpha
        k = len(activity)
        self.labels: Labels = np.arange(k)
        self.together = np.zeros((k, k))
        for i in range(k):
            self.together[i, i:] = self.together[i:, i] = self._overlaps(i, first=i)
        self.sizes = self.together.diagonal().copy()
        self.floor = np.array([self.merge_costs(np.array([i])).min() for i in range(k)])

    def cost(self) -> float:
        return self.rank_cost() + float(self.sizes.sum()) * math.log2(max(len(self.sizes), 1))

    def rank_cost(self) -> float:
        """The part of the cost that no merge lowers: a union is as large as its parts, and has all their ranks."""
        return self.alpha * float(self.sizes @ self.ranks)

    def merge_costs(self, rows: NDArray[np.int64]) -> Floats:
        """What merging each of `rows` [m] with each group adds, beside what all merges add: [m, k], inf for itself."""
        both = self.together[rows]
        alone = self.ranks[rows, None] * (self.sizes - both) + self.ranks * (self.sizes[rows, None] - both)
        costs = self.alpha * alone - both * math.log2(max(len(self.sizes) - 1, 1))
        costs[np.arange(len(rows)), rows] = np.inf
        return costs

    def cheapest_merge(self) -> tuple[int, int]:
        while True:
            i = int(self.floor.argmin())
            costs = self.merge_costs(np.array([i]))[0]
            self.floor[i] = costs.min()
            if self.floor[i] <= self.floor.min():
                return i, int(costs.argmin())

    def cheap_merge(self, spread: float, generator: torch.Generator) -> tuple[int, int]:
        """A random one of the merges whose change of the cost is within `spread` of the cheapest's, relative to it."""
        least = self.floor[self.cheapest_merge()[0]]
        k = len(self.sizes)
        limit = least + spread * abs(least + self.sizes.sum() * math.log2((k - 1) / k))
        rows = np.flatnonzero(self.floor <= limit)
        costs = self.merge_costs(rows)
        self.floor[rows] = costs.min(1)
        near = np.argwhere(costs <= limit)
        row, column = near[int(torch.randint(len(near), (1,), generator=generator))]
        return int(rows[row]), int(column)

    def merge(self, i: int, j: int) -> None:
        i, j = sorted((i, j))
        self.activity[i] |= self.activity[j]
        self.sizes[i] += self.sizes[j] - self.together[i, j]
        self.ranks[i] += self.ranks[j]
        self.labels[self.labels == j] = i
        self._drop(j)
        self.together[i] = self.together[:, i] = self._overlaps(i)
        costs = self.merge_costs(np.array([i]))[0]
        self.floor = np.minimum(self.floor, costs)
        self.floor[i] = costs.min()

    def _drop(self, j: int) -> None:
        """Give row j to the last group, and the arrays one row less (views: nothing is moved)."""
        last = len(self.sizes) - 1
        for array in (self.activity, self.sizes, self.ranks, self.floor, self.together, self.together.T):
            array[j] = array[last]
        self.labels[self.labels == last] = j
        self.activity, self.sizes, self.ranks = self.activity[:last], self.sizes[:last], self.ranks[:last]
        self.floor, self.together = self.floor[:last], self.together[:last, :last]

    def _overlaps(self, i: int, first: int = 0) -> Floats:
        counts = np.bitwise_count(self.activity[first:] & self.activity[i])
        return counts.sum(1, dtype=np.int32).astype(np.float64)  # int32: a third faster than the default


def _follow(
    start: _Grouping, choose: Callable[[_Grouping], tuple[int, int]], found: tuple[float, Labels]
) -> tuple[float, Labels]:
    """The cheapest assignment and its cost: that of `found`, or of the path of chosen merges from `start`."""
    grouping = copy.deepcopy(start)
    cost, labels = found
    while len(grouping.sizes) > 1 and grouping.rank_cost() < cost:  # beyond, all that follow cost more
        grouping.merge(*choose(grouping))
        if grouping.cost() < cost:
            cost, labels = grouping.cost(), grouping.labels.copy()
    return cost, labels


def _packed(active: Tensor) -> NDArray[np.uint64]:
    """[N, K] bool to [K, ceil(N / 64)], a bit per input: exact counts, at 1/32 of the memory of float32."""
    octets = np.packbits(active.cpu().numpy(), axis=0)
    rows = np.zeros((active.shape[1], -(-len(active) // 64) * 8), np.uint8)
    rows[:, : len(octets)] = octets.T
    return rows.view(np.uint64)


def _distinct(activity: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], Labels]:
    """The different rows, in an order that their content alone decides, and the one that each row is."""
    keys = [row.tobytes() for row in activity]
    position = {key: place for place, key in enumerate(sorted(set(keys)))}
    which = np.array([position[key] for key in keys], np.int64)
    distinct = np.empty((len(position), activity.shape[1]), np.uint64)
    distinct[which] = activity
    return distinct, which


def _members(activity: NDArray[np.uint64], alive: Labels, labels: Labels) -> tuple[tuple[int, ...], ...]:
    """Members of each group, the most often active group first, of equals the one with the smallest member."""
    groups = [alive[labels == group] for group in np.unique(labels)]
    sizes = [int(np.bitwise_count(np.bitwise_or.reduce(activity[group])).sum()) for group in groups]
    order = sorted(range(len(groups)), key=lambda group: (-sizes[group], groups[group][0]))
    return tuple(tuple(groups[group].tolist()) for group in order)
