"""Explains inputs one at a time, so that nothing depends on what else is asked about (law 3).

What is called a cause here is what switching a part off changes: in the anomaly score, or in the target's output.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.components.masks import FixedWeights
from madpipe.decomposition.losses import OutputMetric
from madpipe.editing.coalitions import Coalition, shares, smallest_set
from madpipe.editing.decisions import Criterion, divergence, reaches, readable
from madpipe.editing.explanation import Explanation, PartStory, TrustedInput
from madpipe.editing.parts import Parts
from madpipe.editing.reading import Direction, Reading, direction, pushes_along, read_by_parts
from madpipe.editing.replacement import MOST_FEATURES, REFERENCES, lost_by_replacing
from madpipe.editing.trusted_reference import TrustedReference, as_input, quantile_of
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import JointObserver, Observation

Floats = NDArray[np.float64]
SurpriseOf = Callable[[Sequence[Observation]], Floats]
"""The anomaly score in nats of a batch, [B]; one observation for each decomposition."""

MOST_OF = 0.9  # of the surprise, that named parts account for where no decision changes
COMPONENTS_TOLD, NEIGHBOURS, ACTIVE_ON = 3, 5, 3


class Explainer:
    """`joint` observes with every decomposition; `involvement` is that of the first one."""

    def __init__(
        self,
        joint: JointObserver,
        involvement: Involvement,
        surprise: SurpriseOf,
        trusted: TrustedReference | None = None,
    ):
        methods = [observer.method for observer in joint.observers]
        self.joint, self.involvement, self.surprise, self.trusted = joint, involvement, surprise, trusted
        self.model, self.metric = methods[0].model, methods[0].statistics.metric
        self.of_outputs, self.of_hidden = Parts(methods, "output"), Parts(methods, "hidden")
        self.sites = self.of_outputs.sites

    @torch.no_grad()
    def explain(self, input_id: str, row: NDArray[np.float32], p_value: float) -> Explanation:
        """Of one input, an array of the input's shape."""
        x = as_input(row[None], self.model)
        observations = self.joint.observe(x)
        clean = observations[0].clean.output[0]
        explained = self.explained(observations)
        before, goal = readable(clean, self.metric), explained.mean(0)
        changed = not bool(reaches(before, goal, before, self.metric))
        parts = self.of_outputs if changed else self.of_hidden
        value = cache(lambda taken: float(self._surprise_of(x, taken)[0]))
        none, whole = value(frozenset()), value(frozenset(parts.delta_names))
        named = self._named(x, parts, before, goal, value if not changed else None)
        ablated = parts.outputs_without(x, [named])[0]
        # A saturated output hardly moves; where no decision does, raw outputs tell what the parts work towards.
        effect = before - goal if changed else clean - parts.outputs_without(x, [parts.delta_names])[0]
        reading = read_by_parts(self.model, x, parts.added_by(named), effect)
        kept = self.trusted.kept_by(parts, named) if self.trusted else None
        return Explanation(
            input_id=input_id,
            x=_array(x[0]),
            anomaly_score=whole,
            p_value=p_value,
            output_kind=self.metric.kind,
            surprise_bits=whole / log(2),
            base_bits=none / log(2),
            clean=_array(before[0]),
            explained=_array(goal[0]),
            spread=_array(explained[:, 0].std(0, correction=0)),
            ablated=_array(readable(ablated, self.metric)[0]),
            changed=changed,
            named=tuple(sorted(named, key=parts.delta_names.index)),
            restores=bool(reaches(readable(ablated, self.metric), goal, before, self.metric)),
            trusted_bits=kept.divergence / log(2) if kept else None,
            trusted_agreement=kept.agreement if kept else None,
            parts=self._stories(x, observations[0], parts, shares(parts.delta_names, value), reading),
            read=self._read(x, named, reading),
            read_in_bits=self._replaces(x),
            nearest=self._nearest(x),
        )

    def explained(self, observations: Sequence[Observation]) -> Tensor:
        """Readable outputs of every decomposition's variants that answer for the output, [F, B, ..., O]."""
        outputs = []
        for observation in observations:
            chosen = [s for s, answers in enumerate(observation.method.matches_output()) if answers]
            outputs.append(observation.explained("alive").output[chosen])
        return readable(torch.cat(outputs), self.metric)

    def _surprise_of(self, x: Tensor, taken: Coalition) -> Floats:
        """Nats of surprise at x [B, ...] if the explained network lacked these deltas alone: [B]."""
        partial, whole = copy.copy(self.joint), self.joint.alive_weights
        partial.alive_weights = {
            site: alive if f"delta@{site}" in taken else FixedWeights(self._own_weight(i).expand_as(alive.matrices))
            for i, (site, alive) in enumerate(whole.items())
        }
        return self.surprise(partial.observe(x))

    def _own_weight(self, index: int) -> Tensor:
        return self.model.weight(index)[None]

    def _named(
        self, x: Tensor, parts: Parts, before: Tensor, goal: Tensor, value: Callable[[Coalition], float] | None
    ) -> Coalition:
        """The smallest set of deltas that gives the goal's decision or, by `value`, accounts for the surprise."""

        def by_decision(sets: Sequence[Coalition]) -> list[tuple[float, float]]:
            return lacking(readable(parts.outputs_without(x, sets), self.metric), goal, before, self.metric)

        def by_surprise(sets: Sequence[Coalition]) -> list[tuple[float, float]]:
            assert value is not None
            none, whole = value(frozenset()), value(frozenset(parts.delta_names))
            enough = none + MOST_OF * (whole - none)
            return [(float(value(one) < enough), -value(one)) for one in sets]

        return smallest_set(parts.delta_names, by_surprise if value else by_decision, removal_cost(parts, self.trusted))

    def _replaces(self, x: Tensor) -> bool:
        return self.trusted is not None and x.numel() <= MOST_FEATURES

    def _read(self, x: Tensor, named: Coalition, reading: Reading) -> Floats | None:
        if self.trusted is not None and self._replaces(x):
            references = self.trusted.some(REFERENCES)
            return lost_by_replacing(x, references, lambda rows: self._surprise_of(rows, named)) / log(2)
        return None if reading.features is None else _array(reading.features[0])

    def _stories(
        self, x: Tensor, observation: Observation, parts: Parts, bits: dict[str, float], reading: Reading
    ) -> tuple[PartStory, ...]:
        """Deltas by their share of the surprise, then the components that are most unusual in size."""
        sizes = dict(zip(self.involvement.names, self.involvement.ratios(observation)[0].tolist(), strict=True))
        components = [name for name in sizes if name in parts.names and name not in bits]
        told = sorted(components, key=lambda name: -sizes[name])[:COMPONENTS_TOLD]
        deltas = sorted(bits, key=lambda name: -bits[name])
        clean = observation.clean
        alone = divergence_without(parts, x, clean.output[0], [*deltas, *told])
        stories = []
        for name in [*deltas, *told]:
            site, found = self._direction(name, parts, observation, reading)
            driving = None if found is None or self.trusted is None else self._trusted_pushes(site, found.reads)
            stories.append(
                PartStory(
                    name=name,
                    site=site,
                    surprise_bits=bits[name] / log(2) if name in bits else None,
                    ablation_bits=alone[name] / log(2),
                    usual_size=sizes.get(name),
                    reads=None if found is None else _array(found.reads),
                    writes=None if found is None else _array(found.writes),
                    push=None if found is None else found.push,
                    usual_push=None if driving is None else quantile_of(driving.cpu(), 0.95),
                    active_on=() if driving is None else self._most_driving(driving),
                )
            )
        return tuple(stories)

    def _direction(
        self, name: str, parts: Parts, observation: Observation, reading: Reading
    ) -> tuple[str, Direction | None]:
        """(site, direction): of a delta along its effect, of a component of one slot along itself."""
        slots = [] if name in parts.delta_names else parts.slots_of(name)
        site = name.removeprefix("delta@") if not slots else "+".join(dict.fromkeys(self.sites[i] for i, _, _ in slots))
        if not slots and site in reading.pushes:
            index, matrix, push = self.sites.index(site), parts.deltas[site], reading.pushes[site]
            return site, direction(self.model, index, observation.clean.site_inputs[site][0], matrix, push)
        if len(slots) != 1:
            return site, None
        index, instance, slot = slots[0]
        method = parts.methods[0]
        V, U = method.model.V[index][instance][:, slot], method.model.U[index][instance][slot]
        strength = pushes_along(self.model, index, observation.clean.site_inputs[site][0], V * U.norm())
        return site, Direction(V * U.norm(), strength[0] * U / U.norm(), float(strength[0]))

    def _trusted_pushes(self, site: str, reads: Tensor) -> Tensor:
        assert self.trusted is not None
        return pushes_along(self.model, self.sites.index(site), self.trusted.clean.site_inputs[site][0], reads)

    def _most_driving(self, driving: Tensor) -> tuple[TrustedInput, ...]:
        order = driving.abs().argsort(descending=True, stable=True)[:ACTIVE_ON]
        return tuple(self._trusted_input(int(i), float(driving[i])) for i in order)

    def _nearest(self, x: Tensor) -> tuple[TrustedInput, ...] | None:
        if self.trusted is None:
            return None
        return tuple(self._trusted_input(place, away) for place, away in self.trusted.nearest(x, NEIGHBOURS))

    def _trusted_input(self, place: int, value: float) -> TrustedInput:
        assert self.trusted is not None
        return TrustedInput(row=int(self.trusted.rows[place]), value=value, x=_array(self.trusted.x[place]))


def lacking(
    outputs: Tensor, goal: Tensor, start: Tensor, metric: OutputMetric, criterion: Criterion = reaches
) -> list[tuple[float, float]]:
    """Of each readable output [T, B, ..., O]: (share of inputs that miss `goal` [B, ..., O], distance from it)."""
    missed = [1 - float(criterion(own, goal, start, metric).double().mean()) for own in outputs]
    return [(share, float((own - goal).square().sum())) for share, own in zip(missed, outputs, strict=True)]


def removal_cost(parts: Parts, trusted: TrustedReference | None) -> Callable[[Coalition], float]:
    """Of sets alike in size: what they do to trusted inputs or, without any, how far from the input they lie."""
    if trusted is not None:
        return lambda names: trusted.kept_by(parts, names).divergence
    return lambda names: float(sum(parts.delta_names.index(name) for name in names))


def divergence_without(parts: Parts, x: Tensor, clean: Tensor, names: Sequence[str]) -> dict[str, float]:
    """KL(clean || without this part alone) in nats at x [1, ...], of each part."""
    outputs = parts.outputs_without(x, [[name] for name in names])
    metric = parts.methods[0].statistics.metric
    return {name: float(divergence(clean, own, metric)[0]) for name, own in zip(names, outputs, strict=True)}


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
