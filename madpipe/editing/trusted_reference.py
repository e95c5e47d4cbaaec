"""Trusted inputs that explanations and removals are held against: what parts do there, and who is near."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.components.model import ComponentModel, Forward
from madpipe.editing.coalitions import Coalition
from madpipe.editing.decisions import divergence, readable, same_decision
from madpipe.editing.parts import Parts, Removed
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import Observer

MOST_ROWS = 2000  # looked at; evenly spaced where there are more
JUDGED_ROWS = 256  # on which every set of parts is judged


@dataclass(frozen=True)
class Kept:
    """What a removal does to trusted inputs: mean KL(before || after) in nats; share of unchanged decisions (None in
    regression).
    """

    divergence: float
    agreement: float | None


class TrustedReference:
    """x [n, ...]; rows: their numbers in the user's trusted data. `involvement` is of the observer's decomposition."""

    def __init__(self, x: NDArray[np.float32], rows: NDArray[np.int64], observer: Observer, involvement: Involvement):
        chosen = evenly(len(x), MOST_ROWS)
        self.x, self.rows = as_input(x[chosen], observer.method.model), rows[chosen]
        self.observer, self.involvement = observer, involvement
        self.metric = observer.method.statistics.metric
        self._kept: dict[tuple[int, Coalition], Kept] = {}

    @cached_property
    def clean(self) -> Forward:
        return self.observer.method.model.clean_forward(self.x)

    @cached_property
    def _judged(self) -> Tensor:
        return torch.from_numpy(evenly(len(self.x), JUDGED_ROWS))

    def kept_by(self, parts: Parts, names: Collection[str]) -> Kept:
        """After the parts called `names` are taken out, on at most JUDGED_ROWS rows; told once for each set."""
        key = (id(parts), frozenset(names))
        if key not in self._kept:
            self._kept[key] = self.left_by(parts, parts.added_by(names))
        return self._kept[key]

    def left_by(self, parts: Parts, removed: Removed) -> Kept:
        """After these matrices are taken out, on at most JUDGED_ROWS rows."""
        after = parts.forward_without(self.x[self._judged], [removed]).output[0]
        return kept(self.clean.output[0][self._judged], after, parts)

    def some(self, count: int) -> Tensor:
        """At most `count` of the inputs, evenly spaced."""
        return self.x[torch.from_numpy(evenly(len(self.x), count))]

    @cached_property
    def _component_columns(self) -> list[int]:
        return [i for i, name in enumerate(self.involvement.names) if not name.startswith("delta@")]

    @cached_property
    def _patterns(self) -> Tensor:
        return self._pattern(self.x)

    def _pattern(self, x: Tensor) -> Tensor:
        """log(1 + size over its usual size) of each component of the first decomposition, [n, components]."""
        return torch.log1p(self.involvement.ratios(self.observer.observe(x))[:, self._component_columns])

    def nearest(self, x: Tensor, count: int) -> list[tuple[int, float]]:
        """(place in `x`, distance) of the trusted inputs whose components are used most as those of x [1, ...] are."""
        distances = (self._patterns - self._pattern(x)).norm(dim=1)
        return [(int(i), float(distances[i])) for i in distances.argsort(stable=True)[:count]]


def kept(before: Tensor, after: Tensor, parts: Parts) -> Kept:
    """Raw outputs [n, ..., O] before and after."""
    metric = parts.methods[0].statistics.metric
    same = same_decision(readable(before, metric), readable(after, metric), metric)
    agreement = None if metric.kind == "regression" else float(same.double().mean())
    return Kept(float(divergence(before, after, metric).mean()), agreement)


def as_input(x: NDArray[np.float32], model: ComponentModel) -> Tensor:
    """Rows in the precision and on the device of a decomposition."""
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(model.V[0])


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` numbers, evenly spaced: a user's file may be in some order."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def quantile_of(values: Sequence[float] | Tensor, share: float) -> float:
    return float(np.quantile(np.abs(np.asarray(values, dtype=np.float64)), share))
