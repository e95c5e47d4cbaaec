"""What the target did on one batch: each kind of pass is run once, when an extractor first asks for it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from madpipe.components.masks import FixedWeights, InputMask, Masks, stochastic_mask
from madpipe.components.model import Forward
from madpipe.decomposition.method import Method

MaskKind = Literal["alive", "importance", "delta_removed", "sampled"]


class Observer:
    """A settled method made ready for scoring: frozen, with the weights of its alive slots rebuilt once."""

    def __init__(self, method: Method):
        self.method = method.eval().requires_grad_(False)
        self.alive_weights: dict[str, FixedWeights] = method.alive_weights()

    def observe(self, x: Tensor) -> "Observation":
        return self._alone.observe(x)[0]

    @cached_property
    def _alone(self) -> "JointObserver":
        return JointObserver([self])

    def batches(self, x: Tensor, size: int) -> Iterator["Observation"]:
        """Observations of consecutive batches of `x` [N, ...], in the method's own precision and device."""
        like = self.method.model.V[0]
        for part in x.split(size):
            yield self.observe(part.to(like))


class JointObserver:
    """Several observers of one target, which share its clean pass and run explained networks side by side in one.

    Each explains by its own alive slots, or, `averaged`, by the mean weights of a group of them: of all where a variant
    answers for hidden activations alone, of its half of the observers where it answers for the output, whose
    divergences are better averaged than its weights.
    """

    def __init__(self, observers: Sequence[Observer], averaged: bool = False):
        self.observers = list(observers)
        variants = range(self.observers[0].method.model.instances)
        groups = [self._groups(s) if averaged else [[k] for k in range(len(self.observers))] for s in variants]
        networks = [(s, group) for s in variants for group in groups[s]]
        # Of each observer, which of the networks explains for each variant.
        self.places = [[networks.index((s, g)) for s in variants for g in groups[s] if k in g] for k in self._numbers]
        self.alive_weights = {
            site: FixedWeights(torch.stack([self._mean_weights(site, s, group) for s, group in networks]))
            for site in self.observers[0].alive_weights
        }

    @property
    def _numbers(self) -> range:
        return range(len(self.observers))

    def _groups(self, variant: int) -> list[list[int]]:
        numbers = list(self._numbers)
        if not self.observers[0].method.matches_output()[variant]:
            return [numbers]
        half = (len(numbers) + 1) // 2
        return [group for group in (numbers[:half], numbers[half:]) if group]

    def _mean_weights(self, site: str, variant: int, group: list[int]) -> Tensor:
        return torch.stack([self.observers[k].alive_weights[site].matrices[variant] for k in group]).mean(0)

    def observe(self, x: Tensor) -> list["Observation"]:
        """An observation by each observer."""
        passes = JointPasses(self, x)
        return [Observation(observer, x, passes, k) for k, observer in enumerate(self.observers)]

    def batches(self, x: Tensor, size: int) -> Iterator[list["Observation"]]:
        """As an observer's `batches`, by all of them."""
        like = self.observers[0].method.model.V[0]
        for part in x.split(size):
            yield self.observe(part.to(like))


class JointPasses:
    """The passes of one batch that observers share, each run when it is first asked for."""

    def __init__(self, joint: JointObserver, x: Tensor):
        self.joint, self.x = joint, x
        self.model = joint.observers[0].method.model

    @cached_property
    def clean(self) -> Forward:
        return self.model.clean_forward(self.x)

    def alive(self, place: int) -> Forward:
        """What alive slots explain to the observer by number `place`."""
        own = self.joint.places[place]
        return Forward(self._every_alive.output[own], ChosenInstances(self._every_alive.site_inputs, own))

    @cached_property
    def _every_alive(self) -> Forward:
        return self.model.rebuilt_forward(self.x, self.joint.alive_weights)


class ChosenInstances(Mapping[str, Tensor]):
    """Site inputs of some instances [T, B, ...], copied for the sites that are asked for."""

    def __init__(self, every: Mapping[str, Tensor], places: Sequence[int]):
        self._every, self._places = every, list(places)

    def __getitem__(self, site: str) -> Tensor:
        return self._every[site][self._places]

    def __iter__(self) -> Iterator[str]:
        return iter(self._every)

    def __len__(self) -> int:
        return len(self._every)


class Observation:
    """One batch x [B, ...]. `clean` has a leading axis of one; explained passes have one of S instances.

    `passes` may be shared with other observers of the same batch, of which this is by number `place`.
    """

    def __init__(self, observer: Observer, x: Tensor, passes: JointPasses, place: int):
        self.observer, self.method, self.x = observer, observer.method, x
        self._passes, self._place = passes, place
        self._explained: dict[str, Forward] = {}

    @property
    def clean(self) -> Forward:
        return self._passes.clean

    @cached_property
    def activity(self) -> dict[str, Tensor]:
        """Component activity of each slot, site -> [S, B, *P, K]."""
        return self.method.activity(self.clean, self.x)

    def explained(self, kind: MaskKind) -> Forward:
        """The pass with trusted components only, masked as `kind` says; [S, B, ...].

        alive: alive slots at one. importance: slots by this input's activity. delta_removed: every slot at one.
        sampled: m = g + (1 - g) r with one r for all inputs, so that a row does not depend on its batch.
        """
        if kind == "alive" and kind not in self._explained:
            self._explained[kind] = self._passes.alive(self._place)
        if kind not in self._explained:
            S = self.method.model.instances
            x = self.x.repeat(S, *[1] * (self.x.ndim - 1))
            self._explained[kind] = self.method.model.masked_forward(x, self._masks(kind))
        return self._explained[kind]

    def _masks(self, kind: MaskKind) -> Masks:
        match kind:
            case "importance":
                return {name: InputMask(g) for name, g in self.activity.items()}
            case "delta_removed":
                return self.method.all_slots_masks()
            case "sampled":
                return {name: InputMask(_fixed_sample(g)) for name, g in self.activity.items()}
            case "alive":
                raise AssertionError("alive slots run as rebuilt weights")


def _fixed_sample(importance: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    one_row = torch.zeros_like(importance[:, :1])
    return importance + (1 - importance) * stochastic_mask(one_row, generator)
