"""Masks: how much of each slot and of the weight delta takes part in a forward pass.

A site that a forward pass is given no mask for runs clean. m = 1 on every slot and delta = 1 is the clean weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from madpipe.components.pairs import ActivePairs


@dataclass(frozen=True)
class SharedMask:
    """One mask for every input: `slots` [S, K], `delta` one number. The site's weight is rebuilt once, then applied."""

    slots: Tensor
    delta: float = 0.0


@dataclass(frozen=True)
class InputMask:
    """A mask per input: `slots` [S, B, K] or [S, B, *P, K]; `delta` [S, B], or None for a removed delta."""

    slots: Tensor
    delta: Tensor | None = None

    @cached_property
    def beyond_delta(self) -> Tensor:
        """m - delta, in the shape of `slots`: what a slot takes part with, where W x does with delta."""
        return self.slots if self.delta is None else self.slots - over_positions(self.delta[..., None], self.slots.ndim)


@dataclass(frozen=True)
class FixedWeights:
    """The masked sum itself, `matrices` [S, I, O]: a shared mask rebuilt once for many passes."""

    matrices: Tensor


@dataclass(frozen=True)
class ActiveMask:
    """Active components alone: `pairs` of inputs and components, each of as many slots; a removed delta."""

    pairs: ActivePairs


SiteMask = SharedMask | InputMask | FixedWeights | ActiveMask
Masks = Mapping[str, SiteMask]


def over_positions(mask: Tensor, ndim: int) -> Tensor:
    """[S, B, K] -> [S, B, 1.., K] of `ndim` axes, so that a mask without positions holds at all of them."""
    missing = ndim - mask.ndim
    return mask.reshape(*mask.shape[:2], *[1] * missing, *mask.shape[2:]) if missing else mask


def stochastic_mask(importance: Tensor, generator: torch.Generator) -> Tensor:
    """m = g + (1 - g) r with r ~ U(0, 1) (SPD, arXiv 2506.20790, eq. 6); same shape as `importance`.

    r is drawn where `generator` lives, so that a CPU generator gives every device the same draws.
    """
    r = torch.rand(importance.shape, generator=generator, device=generator.device, dtype=importance.dtype)
    return mask_from_source(importance, r.to(importance.device))


def mask_from_source(importance: Tensor, source: Tensor) -> Tensor:
    """m = g + (1 - g) r for a source r in [0, 1] of any origin; exactly 1 at g = 1."""
    return torch.addcmul(source, 1 - source, importance)


def uniform_subsets(sites: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Bool [sites, *shape]: at each place k ~ U{1, ..., sites}, then a random subset of k sites (VPD's routing)."""
    k = torch.randint(1, sites + 1, tuple(shape), generator=generator)
    ranks = torch.rand(sites, *shape, generator=generator).argsort(0).argsort(0)
    return ranks < k


def clean_elsewhere(mask: InputMask, here: Tensor) -> InputMask:
    """`mask` on the inputs where `here` [S, B] is true; on all others one everywhere, which is the clean weight."""
    delta = torch.zeros_like(here, dtype=mask.slots.dtype) if mask.delta is None else mask.delta
    wide = here.view(*here.shape, *[1] * (mask.slots.ndim - 2))
    return InputMask(torch.where(wide, mask.slots, 1.0), torch.where(here, delta, 1.0))
