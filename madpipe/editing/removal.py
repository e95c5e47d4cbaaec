"""Takes mechanisms out of a target and gives back a plain nn.Module of the same architecture.

Whole parts are subtracted from the weights. Where inputs show the mechanism, less may do: of a delta D at a site only
what these inputs excite and trusted inputs do not,

    M = argmin  s mean_named |x D - x M|^2 + (1 - s) mean_trusted |x M|^2,

a ridge regression whose share s runs from mild to the whole delta. A share is enough if what some of the inputs teach
makes the others give up what trusted parts do not say, nearly as well as the removal of all deltas does.
Legend: I = d_in, O = d_out of a site.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madpipe.components.layers import weight_matrix
from madpipe.editing.coalitions import Coalition, smallest_set
from madpipe.editing.decisions import gives_up, readable
from madpipe.editing.explaining import Explainer, lacking, removal_cost
from madpipe.editing.parts import Parts, Removed
from madpipe.editing.trusted_reference import TrustedReference, as_input

SHARES = (0.03, 0.1, 0.3, 0.5, 0.8)
CROSSED = 5  # groups of inputs, each judged by what the others teach
FEWEST = 10  # inputs that show a mechanism well enough to take out a part of a delta
AS_GOOD = 0.05  # share of inputs by which a milder removal may fall behind
NEGLIGIBLE = 1e-6  # of the mean second moment: directions that no input excites have no say


def edited_module(module: nn.Module, removed: Removed) -> nn.Module:
    """A copy of `module` whose weight at each site in `removed` is less by that [I, O]; the rest is bit for bit."""
    edited = copy.deepcopy(module)
    for site, matrix in removed.items():
        own = edited.get_submodule(site)
        weight = own.weight
        assert isinstance(weight, Tensor)
        less = weight_matrix(own).double() - matrix.double().to(weight.device)
        with torch.no_grad():
            weight.copy_(less.t().reshape(weight.shape))
    return edited


@dataclass(frozen=True)
class Removal:
    """names: the parts taken from; removed: site -> [I, O]; share: s above, None for whole parts."""

    names: tuple[str, ...]
    removed: Removed
    share: float | None = None


def whole_removal(parts: Parts, names: Collection[str]) -> Removal:
    return Removal(tuple(names), parts.added_by(names))


@torch.no_grad()
def removal_shown_by(explainer: Explainer, rows: NDArray[np.float32]) -> Removal:
    """Of the mechanism that inputs [n, ...] show, the goal being what the explained networks say, on average."""
    x = as_input(rows, explainer.model)
    goal = explainer.explained(explainer.joint.observe(x)).mean(0)
    return shown_removal(explainer.of_outputs, x, goal, explainer.trusted)


def shown_removal(parts: Parts, x: Tensor, goal: Tensor, trusted: TrustedReference | None) -> Removal:
    """Of the mechanism that inputs x [n, ...] show: what makes them give up their decisions where `goal` [n, *P, O],
    readable outputs, has others, at least divergence on trusted inputs. Without these, or with few x, whole deltas go.
    """
    shown = Shown(parts, x, goal, trusted)
    fewest = shown.fewest()
    if trusted is None or len(x) < FEWEST:
        return whole_removal(parts, _ordered(fewest, parts))
    sets = dict.fromkeys([frozenset({name}) for name in parts.delta_names] + [fewest, frozenset(parts.delta_names)])
    removals = [one for names in sets for one in shown.sufficient(_ordered(names, parts))]
    return min(removals, key=lambda one: trusted.left_by(parts, one.removed).divergence)


def _ordered(names: Coalition, parts: Parts) -> tuple[str, ...]:
    return tuple(sorted(names, key=parts.delta_names.index))


class Shown:
    """Inputs that show a mechanism, and what removals give back of `goal` on them."""

    def __init__(self, parts: Parts, x: Tensor, goal: Tensor, trusted: TrustedReference | None):
        self.parts, self.x, self.goal, self.trusted = parts, x, goal, trusted
        self.metric = parts.methods[0].statistics.metric
        self._start = self._read(parts.model.clean_forward(x).output[0])
        everything = self.reached(parts.added_by(parts.delta_names))
        self.enough = everything - AS_GOOD  # nearly as many inputs as without any delta

    def fewest(self) -> Coalition:
        """The fewest deltas whose removal is enough."""

        def told(sets: Sequence[Coalition]) -> list[tuple[float, float]]:
            outputs = self._read(self.parts.outputs_without(self.x, sets))
            return lacking(outputs, self.goal, self._start, self.metric, gives_up)

        cost = removal_cost(self.parts, self.trusted)
        return smallest_set(self.parts.delta_names, told, cost, allowed=1 - self.enough)

    def sufficient(self, names: tuple[str, ...]) -> Iterator[Removal]:
        """The deltas whole and the mildest part of them, as far as they are enough."""
        whole = whole_removal(self.parts, names)
        if self.reached(whole.removed) >= self.enough or set(names) == set(self.parts.delta_names):
            yield whole
        for share in SHARES:
            if self.crossed(names, share) >= self.enough:
                yield Removal(names, self.excited(names, share, slice(None)), share)
                return

    def reached(self, removed: Removed, rows: Tensor | slice = slice(None)) -> float:
        """Share of these rows of x that reach the goal once `removed` is out."""
        output = self._read(self.parts.forward_without(self.x[rows], [removed]).output[0])
        return float(gives_up(output, self.goal[rows], self._start[rows], self.metric).double().mean())

    def _read(self, outputs: Tensor) -> Tensor:
        return readable(outputs, self.metric)

    def crossed(self, names: Collection[str], share: float) -> float:
        """Share of inputs that reach the goal, each by a removal that others have taught."""
        group, reached = np.arange(len(self.x)) % min(CROSSED, len(self.x)), 0.0
        for k in range(group.max() + 1):
            own = torch.from_numpy(group == k)
            removed = self.excited(names, share, ~own)
            reached += float(own.sum()) * self.reached(removed, own)
        return reached / len(self.x)

    def excited(self, names: Collection[str], share: float, rows: Tensor | slice) -> dict[str, Tensor]:
        """site -> M, learned from these rows of x."""
        removed = {}
        for name in names:
            site = name.removeprefix("delta@")
            index = self.parts.sites.index(site)
            of_named = share * self._second_moment(index, self._site_inputs[site][rows])
            both = of_named + (1 - share) * self._of_trusted[site]
            ridge = NEGLIGIBLE * both.diagonal().mean() * torch.eye(len(both), dtype=both.dtype, device=both.device)
            delta = self.parts.deltas[site].double()
            removed[site] = torch.linalg.solve(both + ridge, of_named @ delta).to(self.parts.deltas[site].dtype)
        return removed

    @cached_property
    def _site_inputs(self) -> dict[str, Tensor]:
        return {site: value[0] for site, value in self.parts.model.clean_forward(self.x).site_inputs.items()}

    @cached_property
    def _of_trusted(self) -> dict[str, Tensor]:
        assert self.trusted is not None
        clean = self.trusted.clean.site_inputs
        return {site: self._second_moment(i, clean[site][0]) for i, site in enumerate(self.parts.sites)}

    def _second_moment(self, index: int, site_inputs: Tensor) -> Tensor:
        """Mean over inputs and positions of what the site's linear map reads, squared: [n, ...] -> [I, I]."""
        model = self.parts.model
        width = model.sites[index].d_in
        every = torch.eye(width, dtype=site_inputs.dtype, device=site_inputs.device)[None]
        read = model.operation(index).inner(site_inputs, every)[0].reshape(-1, width).double()
        return read.t() @ read / len(read)
