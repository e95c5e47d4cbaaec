"""What parts read to have their effect: the input's features, directions at each site, and how strongly they push.

The effect is what the outputs lose when the parts are taken out: sum_o e_o (f(x) - f_without(x))_o for given weights e.
It is the integral of the parts' own contributions to their sites, times the gradient of the outputs behind them, while
the parts fade from whole to none (integrated gradients, Sundararajan et al. 2017, along the parts' strength instead of
the input). A gradient at f alone says little: where a backdoor has decided an output, the output is saturated.
Legend: B inputs, P positions, I = d_in, O = d_out of a site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel

STEPS = 8  # along the parts' strength


@dataclass(frozen=True)
class Reading:
    """features: x_i times the gradient of the effect through the parts, of the input's shape [B, ...]; None where the
    inputs have no gradient (token numbers). pushes: site -> gradient of the effect by what the parts add to the site's
    output, [B, *P, O].
    """

    features: Tensor | None
    pushes: Mapping[str, Tensor]


def read_by_parts(model: ComponentModel, x: Tensor, parts: Mapping[str, Tensor], effect: Tensor) -> Reading:
    """What `parts`, site -> matrix [I, O] contained in the site's weight, read of x [B, ...]; effect [B, ..., O]."""
    gradient: Tensor | None = None
    pushes: dict[str, Tensor] = {}
    for strength in ((torch.arange(STEPS) + 0.5) / STEPS).tolist():
        by_input, by_site = _at_strength(model, x, parts, effect, strength)
        if by_input is not None:
            gradient = by_input if gradient is None else gradient + by_input
        for site, push in by_site.items():
            pushes[site] = pushes[site] + push / STEPS if site in pushes else push / STEPS
    return Reading(None if gradient is None else x * gradient / STEPS, pushes)


@torch.enable_grad()
def _at_strength(
    model: ComponentModel, x: Tensor, parts: Mapping[str, Tensor], effect: Tensor, strength: float
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """(gradient by the input through the parts, gradient by what they add), the parts taking part with `strength`."""
    x = x.clone().requires_grad_(True)
    added: list[tuple[int, Tensor, Tensor]] = []

    def fade(index: int, site_input: Tensor, clean: Tensor) -> Tensor:
        part = parts.get(model.sites[index].name)
        if part is None:
            return clean
        contribution = model.operation(index).apply_weights(site_input, part[None])
        faded = clean - (1 - strength) * contribution  # a new tensor: the bias is added into it
        if not faded.requires_grad:  # token numbers: nothing reaches the input, and the site is where gradients begin
            faded = faded.requires_grad_(True).clone()
        added.append((index, contribution, faded))
        return added[-1][2]

    output = model.perturbed_forward(x, fade).output[0]
    value = (output * effect).sum()
    behind = torch.autograd.grad(value, [faded for _, _, faded in added], retain_graph=True, allow_unused=True)
    gradients = [torch.zeros_like(one[2]) if g is None else g for one, g in zip(added, behind, strict=True)]
    through = sum((g * contribution).sum() for g, (_, contribution, _) in zip(gradients, added, strict=True))
    by_site: dict[str, Tensor] = {}
    for (index, _, _), g in zip(added, gradients, strict=True):
        site, placed = model.sites[index].name, model.operation(index).positions(g, 1)[0]
        by_site[site] = by_site[site] + placed if site in by_site else placed
    if not isinstance(through, Tensor) or not through.requires_grad:
        return None, by_site
    return torch.autograd.grad(through, x, allow_unused=True)[0], by_site


@dataclass(frozen=True)
class Direction:
    """Of one part at one site, at the position where it pushes most. reads [I]: which site inputs drive the effect.
    writes [O]: what the part adds to the site's output. push: the effect it has there, to first order, on this input.
    """

    reads: Tensor
    writes: Tensor
    push: float


def direction(model: ComponentModel, index: int, site_input: Tensor, part: Tensor, push: Tensor) -> Direction:
    """Of a part [I, O] of site `index` on one input, whose site input is [1, ...] and whose push is [1, *P, O]."""
    operation = model.operation(index)
    writes = operation.positions(operation.apply_weights(site_input, part[None]), 1)[0].flatten(0, -2)
    flat = push.flatten(0, -2)
    strengths = (writes * flat).sum(-1)
    where = int(strengths.abs().argmax())
    return Direction(part @ flat[where], writes[where], float(strengths[where]))


def pushes_along(model: ComponentModel, index: int, site_inputs: Tensor, reads: Tensor) -> Tensor:
    """How strongly inputs drive a read direction [I] at a site, their largest position: [N, ...] -> [N]."""
    driven = model.operation(index).inner(site_inputs, reads[None, :, None])[0, ..., 0]
    flat = driven.flatten(1) if driven.ndim > 1 else driven[:, None]
    return flat.gather(1, flat.abs().argmax(1, keepdim=True))[:, 0]
