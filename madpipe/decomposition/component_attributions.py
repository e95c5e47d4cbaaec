"""How much each component of an APD matters on each input: A_c(x) = sqrt(mean_o effect_{c,o}(x)^2).

Three kinds of effect of component c, whose weights are P_c, on output o:
`gradient`, J_o(W) P_c: the derivative along P_c at the target's weights (APD, arXiv 2501.14926, section 2.2);
`integrated_gradients`, the integral of J_o(tW) P_c over t in [0, 1], by the midpoint rule: gradients along the
parameter path from no weights to the target's, on which all components grow together (Sundararajan et al., arXiv
1703.01365, with components for features). Over components that sum to W it adds up to f_o(W) - f_o(0), biases kept;
`ablation`, f_o(W) - f_o(W - P_c): the output's change when the component leaves the target's weights.

Gradients are had in one of three ways (`mode`): `backward`, a backward pass for each output; `forward`, a forward-mode
derivative for each component, for as many outputs as there are; `projections`, a backward pass for each of 16 random
mixes of outputs, unbiased. The first two agree up to rounding. `auto` takes backward up to 16 outputs, above that the
fewest passes of forward and projections. Where the network is a chain and that takes fewer multiplications than these
would, `auto` and `forward` are exact and without any graph (chains.py).

Effects are differentiable with respect to slots; what the target does is a constant to them.
Legend: S instances, B inputs, P positions, I = d_in, O = d_out, C components of m slots, D outputs or projections.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from madpipe.components.layers import SiteOperation
from madpipe.components.model import ComponentModel
from madpipe.decomposition.attributions import MOST_OUTPUTS, OutputGradients, SiteUse, output_gradients
from madpipe.decomposition.chains import Segment, chain_attributions, chain_of, multiplications

AttributionKind = Literal["gradient", "integrated_gradients", "ablation"]
AttributionMode = Literal["auto", "backward", "forward", "projections"]

MOST_NUMBERS = 2**24  # of the largest tensor of effects: components beyond it take their turn
LEAST_PRODUCT = 512  # C * O * D of a product for one input: below, a batched product costs more than it computes
SAME = 1e-6  # relative difference of gradients that float32 rounding makes


@dataclass(frozen=True)
class Attribution:
    """Which effect, how gradients are had, and at how many points of its path integrated gradients take them."""

    kind: AttributionKind = "gradient"
    mode: AttributionMode = "auto"
    steps: int = 8


GRADIENT = Attribution()

Effects = Callable[[slice], Tensor]
"""Some components -> their effects [S, B, C, D], times a constant: sum_d of the squares is mean_o effect^2."""


@torch.no_grad()
def component_attributions(model: ComponentModel, x: Tensor, rank: int, how: Attribution = GRADIENT) -> Tensor:
    """sqrt(mean_o effect^2) of x [B, ...] in every instance: [S, B, C], of components of `rank` slots at every site."""
    return squared_attributions(model, x, rank, how, own=False).sqrt()


def squared_attributions(model: ComponentModel, x: Tensor, rank: int, how: Attribution, *, own: bool) -> Tensor:
    """mean_o effect^2, [S, B, C]; `own`: x is [S*B, ...], a part for each instance, and not one [B, ...] for all.

    Differentiable with respect to V and U also where an attribution is 0, as its root is not.
    """
    C = model.slots[0] // rank
    chain = _cheap_chain(model, x[:1], rank, how)
    everyone = x if own else _repeated(model, x)
    if chain is not None and multiplications(chain) <= chain[-1].width * len(everyone) // model.instances:
        whole = chain_of(model, everyone)
        assert whole is not None, "a network is a chain for every input, or for none"
        return chain_attributions(model, whole, rank)
    outputs, written = _sizes(model, x[:1])
    mode = chosen_mode(how.mode, outputs, C)
    exact: AttributionMode = "backward" if chain is not None and mode == "projections" else mode
    effects = _effects(model, x, rank, replace(how, mode=exact), own)
    size = max(MOST_NUMBERS // (len(everyone) * max(outputs, written)), 1)
    parts = [_sum_of_squares(effects(slice(c, min(c + size, C)))) for c in range(0, C, size)]
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def _sum_of_squares(effects: Tensor) -> Tensor:
    """[..., D] -> [...]; a sum over few neighbouring numbers is faster as a product with ones."""
    squares = effects.square()
    return squares @ squares.new_ones(squares.shape[-1]) if squares.stride(-1) == 1 else squares.sum(-1)


def chosen_mode(mode: AttributionMode, outputs: int, components: int) -> AttributionMode:
    """What `auto` stands for."""
    if mode != "auto":
        return mode
    if outputs <= MOST_OUTPUTS:
        return "backward"
    return "forward" if components <= MOST_OUTPUTS else "projections"


@torch.no_grad()
def _sizes(model: ComponentModel, x: Tensor) -> tuple[int, int]:
    """Outputs of one input x [1, ...], and the most numbers that a site writes for it."""
    clean, uses = _uses(model, x)
    return clean.numel(), max(use.written for use in uses)


def _repeated(model: ComponentModel, x: Tensor) -> Tensor:
    """[B, ...] -> [S*B, ...]."""
    return x.repeat(model.instances, *[1] * (x.ndim - 1))


def _cheap_chain(model: ComponentModel, x: Tensor, rank: int, how: Attribution) -> list[Segment] | None:
    """The chain that the network is on one input x [1, ...], where it may be taken and costs less than gradients would.

    How many inputs there are does not matter here, so that an input is attributed alike in every batch. With few the
    components' own matrices, which a chain makes, are larger than effects, and gradients of every output are taken.
    """
    if how.kind != "gradient" or how.mode in ("backward", "projections"):
        return None
    chain = chain_of(model, x)
    if chain is None:
        return None
    outputs = chain[-1].width
    few = chosen_mode(how.mode, outputs, model.slots[0] // rank) == "projections"
    gradients = rank * (MOST_OUTPUTS if few else outputs) * sum(site.d_out for site in model.sites)
    return chain if multiplications(chain) <= gradients else None


def _effects(model: ComponentModel, x: Tensor, rank: int, how: Attribution, own: bool) -> Effects:
    everyone = x if own else _repeated(model, x)
    if how.kind == "ablation":
        return _ablation_effects(model, everyone, rank)
    scales = [1.0] if how.kind == "gradient" else [(i + 0.5) / how.steps for i in range(how.steps)]
    if how.mode == "forward":
        return _forward_effects(model, everyone, rank, scales)
    found = [output_gradients(model, x, scale=scale, exact=how.mode == "backward") for scale in scales]
    return _backward_effects(model, found, rank, own)


@dataclass(frozen=True)
class _Use:
    """One use of a site's weight: what it reads [B, ...], and how many numbers it writes."""

    index: int
    site_input: Tensor
    written: int


def _uses(model: ComponentModel, x: Tensor, scale: float = 1.0) -> tuple[Tensor, list[_Use]]:
    """The outputs [B, D] at `scale` times the target's weights, and every use of a site on the way."""
    uses: list[_Use] = []

    def note(index: int, site_input: Tensor, y: Tensor) -> Tensor:
        uses.append(_Use(index, site_input, y.numel()))
        return y * scale

    return model.perturbed_forward(x, note).output[0].flatten(1), uses


def _part(model: ComponentModel, index: int, components: slice, rank: int) -> tuple[Tensor, Tensor]:
    """V [S, I, c*m] and U [S, c*m, O] of some components."""
    slots = slice(components.start * rank, components.stop * rank)
    return model.V[index][:, :, slots], model.U[index][:, slots]


def _backward_effects(model: ComponentModel, found: Sequence[OutputGradients], rank: int, own: bool) -> Effects:
    factor = found[0].weight ** 0.5 / len(found)

    def effects(components: slice) -> Tensor:
        parts = (_use_effects(model, use, components, rank, own) for f in found for use in f.uses)
        return factor * _sum(parts)

    return effects


def _sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _use_effects(model: ComponentModel, use: SiteUse, components: slice, rank: int, own: bool) -> Tensor:
    """sum_m (V_cm . x)(U_cm . g_d), summed over positions: [S, B, c, D]."""
    V, U = _part(model, use.index, components, rank)
    operation, S, D = model.operation(use.index), len(V), len(use.gradients)
    x = use.site_input if own else use.site_input.repeat(S, *[1] * (use.site_input.ndim - 1))
    inner = operation.inner(x, V)
    gradients = operation.positions(use.gradients.flatten(0, 1), 1)[0].unflatten(0, (D, S if own else 1, -1))
    if inner.ndim == 3 and D > 1 and _alike(gradients):
        return _written(inner, U @ gradients[:, 0, 0].mT, rank).transpose(1, 2)
    if inner.ndim == 3 and (rank == 1 or D == 1 or U[0].numel() * D < LEAST_PRODUCT * rank):
        return _by_slots(inner, U, gradients, rank)
    written = _written(inner, U, rank).transpose(1, 2)  # [S, B, c, P*O]
    return written @ gradients.flatten(3).permute(1, 2, 3, 0)


def _alike(gradients: Tensor) -> bool:
    """Whether all inputs have the same gradients [D, S, B, O]: the network is linear from here on."""
    largest = SAME * gradients[:, 0, 0].abs().amax()
    some = gradients[:, :, :: max(gradients.shape[2] // 16, 1)]  # nearly always enough to see that they have not
    return all(bool((g.amax((1, 2)) - g.amin((1, 2))).amax() <= largest) for g in (some, gradients))


def _written(inner: Tensor, U: Tensor, rank: int) -> Tensor:
    """What each component writes, at all positions in a row: [S, B, *P, c*m] and U [S, c*m, O] -> [S, c, B, P*O]."""
    S, B = inner.shape[:2]
    read = inner.unflatten(-1, (-1, rank)).movedim(-2, 1)
    product = read.flatten(2, -2) @ U.unflatten(1, (-1, rank))
    return product.view(S, product.shape[1], B, -1)


def _by_slots(inner: Tensor, U: Tensor, gradients: Tensor, rank: int) -> Tensor:
    """The same by slots, [S, B, K] and [D, S, B, O]; slots of a component are added by a product with ones."""
    grouping = torch.eye(inner.shape[-1] // rank, dtype=U.dtype, device=U.device).repeat_interleave(rank, 0)
    return ((gradients @ U.mT * inner) @ grouping).movedim(0, -1)


def _forward_effects(model: ComponentModel, x: Tensor, rank: int, scales: Sequence[float]) -> Effects:
    """One forward-mode derivative per component: t' = act'(h) * (W t + P_c x), without a graph of the target."""

    def effects(components: slice) -> Tensor:
        parts = (_derivatives(model, x, components, rank, scale) for scale in scales)
        derivatives = _sum(parts)
        factor = 1 / (len(scales) * derivatives.shape[-1] ** 0.5)
        return (factor * derivatives).unflatten(1, (model.instances, -1)).permute(1, 2, 0, 3)

    return effects


def _derivatives(model: ComponentModel, x: Tensor, components: slice, rank: int, scale: float) -> Tensor:
    """d f(x | scale * W + s P_c) / ds at s = 0 of x [S*B, ...]: [c, S*B, D]."""
    with torch.no_grad():
        _, uses = _uses(model, x, scale)
    tangents = tuple(_contribution(model, use, components, rank) for use in uses)

    def outputs(*perturbations: Tensor) -> Tensor:
        waiting = iter(perturbations)
        return model.perturbed_forward(x, lambda _, __, y: y * scale + next(waiting)).output[0].flatten(1)

    zeros = tuple(torch.zeros_like(tangent[0]) for tangent in tangents)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # torch 2.13's own, when it first derives
        found: Tensor = torch.vmap(lambda *along: torch.func.jvp(outputs, zeros, along)[1])(*tangents)
    return found


def _contribution(model: ComponentModel, use: _Use, components: slice, rank: int) -> Tensor:
    """P_c x of some components at one use of a site: [c, S*B, ...]."""
    V, U = _part(model, use.index, components, rank)
    operation: SiteOperation = model.operation(use.index)
    inner = operation.inner(use.site_input, V).unflatten(-1, (-1, rank)).movedim(-2, 0)
    parts = [
        operation.write(read, write) for read, write in zip(inner, U.unflatten(1, (-1, rank)).unbind(1), strict=True)
    ]
    return torch.stack(parts)


def _ablation_effects(model: ComponentModel, x: Tensor, rank: int) -> Effects:
    with torch.no_grad():
        clean = _uses(model, x)[0]

    def effects(components: slice) -> Tensor:
        changes = torch.stack([clean - _without(model, x, c, rank) for c in range(components.start, components.stop)])
        return (changes / clean.shape[1] ** 0.5).unflatten(1, (model.instances, -1)).permute(1, 2, 0, 3)

    return effects


def _without(model: ComponentModel, x: Tensor, component: int, rank: int) -> Tensor:
    """Outputs of x [S*B, ...] at W - P_c: [S*B, D]."""

    def remove(index: int, site_input: Tensor, y: Tensor) -> Tensor:
        V, U = _part(model, index, slice(component, component + 1), rank)
        operation = model.operation(index)
        return y - operation.write(operation.inner(site_input, V), U)

    return model.perturbed_forward(x, remove).output[0].flatten(1)
