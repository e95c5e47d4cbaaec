"""Shares of several parts in what they do together (Shapley 1953), and the smallest set of parts that does the whole.

A value is a function of a set of parts; functions are asked once for each set.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from math import factorial

import numpy as np

Coalition = frozenset[str]
Value = Callable[[Coalition], float]
EXACT = 6  # parts up to which all 2^n sets are asked; beyond, orders are drawn
ORDERS = 16  # drawn orders, each asked backwards too


def shares(parts: Sequence[str], value: Value) -> dict[str, float]:
    """Shapley values: they sum to value(all) - value(none). Exact up to EXACT parts, else over drawn orders (the same
    ones each time), of which the sum still holds.
    """
    known = cache(value)
    return _exact(parts, known) if len(parts) <= EXACT else _sampled(parts, known)


def _exact(parts: Sequence[str], value: Value) -> dict[str, float]:
    count, result = len(parts), dict.fromkeys(parts, 0.0)
    for part in parts:
        others = [other for other in parts if other != part]
        for size in range(count):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            for chosen in combinations(others, size):
                result[part] += weight * (value(frozenset({*chosen, part})) - value(frozenset(chosen)))
    return result


def _sampled(parts: Sequence[str], value: Value) -> dict[str, float]:
    rng, result = np.random.default_rng(0), dict.fromkeys(parts, 0.0)
    drawn = [[parts[i] for i in rng.permutation(len(parts))] for _ in range(ORDERS)]
    orders = [order for forward in drawn for order in (forward, forward[::-1])]
    for order in orders:
        before = value(frozenset())
        for size, part in enumerate(order, start=1):
            after = value(frozenset(order[:size]))
            result[part] += (after - before) / len(orders)
            before = after
    return result


def smallest_set(
    parts: Sequence[str],
    lacking: Callable[[Sequence[Coalition]], Sequence[tuple[float, float]]],
    cost: Callable[[Coalition], float],
    allowed: float = 0.0,
) -> Coalition:
    """The set of fewest parts that suffices, of these the one of least cost; all parts where no smaller set does.

    `lacking` tells of each set the share of inputs for which it does not suffice, at most `allowed`, and how far it is
    from the goal. Up to EXACT parts every set is asked, size by size; beyond, sets grow by the part that then lacks
    least.
    """
    grown: Coalition = frozenset()
    for size in range(1, len(parts)):
        if len(parts) <= EXACT:
            candidates = [frozenset(chosen) for chosen in combinations(parts, size)]
        else:
            candidates = [grown | {part} for part in parts if part not in grown]
        told = list(zip(lacking(candidates), candidates, strict=True))
        enough = [candidate for (share, _), candidate in told if share <= allowed]
        if enough:
            return min(enough, key=cost)
        grown = min(told, key=lambda pair: pair[0])[1]
    return frozenset(parts)
