"""Parts of a target that can be taken out by name: weight deltas and components, as what each adds to the weights.

`delta@<site>` is W minus the explained weights there, averaged over the decompositions that are given (the folds of a
pipeline): an averaged network strays less from the target on trusted inputs than any one of them.
`<site>.<k>`, or `component.<n>@<site>+<site>`, is a component of the first decomposition, as scores name it.
Legend: I = d_in, O = d_out of a site, T removals run side by side.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from madpipe.components.masks import FixedWeights
from madpipe.components.model import Forward
from madpipe.decomposition.method import Method
from madpipe.errors import unknown

Aim = Literal["output", "hidden"]
"""Which variants a delta is of: those that reproduce outputs alone, or those that reproduce hidden activations too."""
Removed = Mapping[str, Tensor]
"""site -> what is taken off its weight, [I, O]; a site that is not named keeps its weight."""
SIDE_BY_SIDE = 64  # removals in one pass: enough for all subsets of six sites


class Parts:
    """`names` lists what can be taken out: deltas first, then the alive components of the first decomposition."""

    def __init__(self, methods: Sequence[Method], aim: Aim = "output"):
        self.methods, self.model = list(methods), methods[0].model
        self.sites = [site.name for site in self.model.sites]
        self.weights = {name: self.model.weight(i) for i, name in enumerate(self.sites)}
        self.deltas = self._averaged_deltas(aim)
        self.delta_names = [f"delta@{site}" for site in self.sites]
        self._slots = _slots_by_name(self.methods[0])

    def _averaged_deltas(self, aim: Aim) -> dict[str, Tensor]:
        explained: dict[str, list[Tensor]] = {site: [] for site in self.sites}
        for method in self.methods:
            answering = method.matches_output() if aim == "output" else method.matches_hidden()
            for site, weights in method.alive_weights().items():
                explained[site] += [weights.matrices[s] for s, answers in enumerate(answering) if answers]
        return {site: self.weights[site] - torch.stack(each).mean(0) for site, each in explained.items()}

    @property
    def names(self) -> list[str]:
        return [*self.delta_names, *self._slots]

    def check(self, names: Iterable[str], where: str = "") -> None:
        """UnknownNameError, with the nearest name, unless there are such parts."""
        known = set(self.names)
        for name in names:
            if name not in known:
                close = [*self.delta_names, *sorted(self._slots, key=lambda own: _distance(own, name))[:10]]
                raise unknown("part", name, close, where)

    def added_by(self, names: Collection[str]) -> dict[str, Tensor]:
        """What the parts called `names` add to the weights, summed: site -> [I, O]."""
        self.check(names)
        total: dict[str, Tensor] = {}
        for name in dict.fromkeys(names):
            for site, matrix in self._matrices(name):
                total[site] = total[site] + matrix if site in total else matrix
        return total

    def _matrices(self, name: str) -> Iterable[tuple[str, Tensor]]:
        if name in self.delta_names:
            site = name.removeprefix("delta@")
            yield site, self.deltas[site]
            return
        model = self.methods[0].model
        for index, instance, slot in self._slots[name]:
            yield self.sites[index], torch.outer(model.V[index][instance][:, slot], model.U[index][instance][slot])

    def forward_without(self, x: Tensor, removals: Sequence[Removed]) -> Forward:
        """f on [B, ...] without each of T removals: [T, B, ...]."""
        touched = {site for removed in removals for site in removed} or set(self.sites[:1])
        weights = {
            site: FixedWeights(
                torch.stack(
                    [self.weights[site] - removed.get(site, _nothing(self.weights[site])) for removed in removals]
                )
            )
            for site in self.sites
            if site in touched
        }
        return self.model.rebuilt_forward(x, weights)

    def outputs_without(self, x: Tensor, subsets: Sequence[Collection[str]]) -> Tensor:
        """Outputs of f on [B, ...] without each of T sets of parts: [T, B, ...]."""
        removals = [self.added_by(names) for names in subsets]
        chunks = [removals[i : i + SIDE_BY_SIDE] for i in range(0, len(removals), SIDE_BY_SIDE)]
        return torch.cat([self.forward_without(x, chunk).output for chunk in chunks])

    def slots_of(self, name: str) -> list[tuple[int, int, int]]:
        """(site index, instance, slot) of each slot of a component."""
        return self._slots[name]


def _slots_by_name(method: Method) -> dict[str, list[tuple[int, int, int]]]:
    """Component name -> its alive slots as (site index, instance, slot); with the names of `Involvement`."""
    instances = [s for s, matches in enumerate(method.matches_hidden()) if matches]
    slots: dict[str, list[tuple[int, int, int]]] = {}
    for s in instances:
        prefix = f"{method.variant_names[s]}:" if len(instances) > 1 else ""
        for index in range(len(method.model.sites)):
            for k in method.alive(index)[s].nonzero().flatten().tolist():
                slots.setdefault(f"{prefix}{method.part_name(index, k)}", []).append((index, s, k))
        if method.has_components:
            for name, own in _clustered(method, s).items():
                slots.setdefault(f"{prefix}{name}", own)  # one site's own may have that name already
    return slots


def _clustered(method: Method, s: int) -> dict[str, list[tuple[int, int, int]]]:
    view = method.component_views()[s]
    slots: dict[str, list[tuple[int, int, int]]] = {}
    for index, site in enumerate(method.model.sites):
        alive = method.alive(index)[s]
        for k, n in enumerate(view.labels[site.name].tolist()):
            if n >= 0 and alive[k]:
                slots.setdefault(f"{view.names[n]}@{view.spans[n]}", []).append((index, s, k))
    return slots


def _nothing(weight: Tensor) -> Tensor:
    return torch.zeros((), dtype=weight.dtype, device=weight.device)


def _distance(known: str, name: str) -> tuple[bool, int]:
    """Parts of the same site first, then those of names of about the same length."""
    return not known.startswith(name.partition(".")[0].partition(":")[0]), abs(len(known) - len(name))
