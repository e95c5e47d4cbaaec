"""Masks: how much of each slot and of the weight delta takes part in a forward pass.

A site that a forward pass is given no mask for runs clean. m = 1 on every slot and delta = 1 is the clean weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


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


@dataclass(frozen=True)
class FixedWeights:
    """The masked sum itself, `matrices` [S, I, O]: a shared mask rebuilt once for many passes."""

    matrices: Tensor


SiteMask = SharedMask | InputMask | FixedWeights
Masks = Mapping[str, SiteMask]


def stochastic_mask(importance: Tensor, generator: torch.Generator) -> Tensor:
    """m = g + (1 - g) r with r ~ U(0, 1) (SPD, arXiv 2506.20790, eq. 6); same shape as `importance`.

    r is drawn where `generator` lives, so that a CPU generator gives every device the same draws.
    """
    r = torch.rand(importance.shape, generator=generator, device=generator.device, dtype=importance.dtype)
    return importance + (1 - importance) * r.to(importance.device)
