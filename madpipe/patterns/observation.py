"""What the target did on one batch: each kind of pass is run once, when an extractor first asks for it."""

from collections.abc import Iterator
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
        return Observation(self, x)

    def batches(self, x: Tensor, size: int) -> Iterator["Observation"]:
        """Observations of consecutive batches of `x` [N, ...], in the method's own precision and device."""
        like = self.method.model.V[0]
        for part in x.split(size):
            yield self.observe(part.to(like))


class Observation:
    """One batch x [B, ...]. `clean` has a leading axis of one; explained passes have one of S instances."""

    def __init__(self, observer: Observer, x: Tensor):
        self.observer, self.method, self.x = observer, observer.method, x
        self._explained: dict[str, Forward] = {}

    @cached_property
    def clean(self) -> Forward:
        return self.method.model.clean_forward(self.x)

    @cached_property
    def activity(self) -> dict[str, Tensor]:
        """Component activity of each slot, site -> [S, B, *P, K]."""
        return self.method.activity(self.clean, self.x)

    def explained(self, kind: MaskKind) -> Forward:
        """The pass with trusted components only, masked as `kind` says; [S, B, ...].

        alive: alive slots at one. importance: slots by this input's activity. delta_removed: every slot at one.
        sampled: m = g + (1 - g) r with one r for all inputs, so that a row does not depend on its batch.
        """
        if kind not in self._explained:
            S = self.method.model.instances
            x = self.x.repeat(S, *[1] * (self.x.ndim - 1))
            self._explained[kind] = self.method.model.masked_forward(x, self._masks(kind))
        return self._explained[kind]

    def _masks(self, kind: MaskKind) -> Masks:
        match kind:
            case "alive":
                return self.observer.alive_weights
            case "importance":
                return {name: InputMask(g) for name, g in self.activity.items()}
            case "delta_removed":
                return self.method.all_slots_masks()
            case "sampled":
                return {name: InputMask(_fixed_sample(g)) for name, g in self.activity.items()}


def _fixed_sample(importance: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    one_row = torch.zeros_like(importance[:, :1])
    return importance + (1 - importance) * stochastic_mask(one_row, generator)
