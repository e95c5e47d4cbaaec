"""Causal importance: how far a slot may not be ablated on this input, predicted from what the site reads.

`site`: one small MLP per site on the site's whole RMS-normalised input, at each position. `slot`: one per slot on its
inner activation, as in SPD (arXiv 2506.20790, section 2.3 and appendix A). `shared`: one MLP over the inputs of all
sites, as in VPD, whose function is a transformer. Leaky-hard sigmoids on top.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from madpipe.components.layers import SiteReading
from madpipe.components.sites import Site
from madpipe.decomposition.scalar_networks import scalar_networks

LEAK = 0.01  # slope outside [0, 1], SPD section 2.3
TINY = torch.finfo(torch.float32).tiny  # up to it x counts as 0
ABOVE_ONE = 1 + torch.finfo(torch.float32).eps  # from it on x is above 1


def _between(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`gradient` where low < x < high, elsewhere 0, in one vectorised pass: choosing by bools takes many times that."""
    result: Tensor = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
    return result


def _into_lower(gradient: Tensor, x: Tensor) -> Tensor:
    """At 0 and below the gradient is LEAK, and only where it would raise x (a negative slope is unstable)."""
    raising = _between(gradient.clamp(max=0), x, -math.inf, TINY)
    return _between(gradient, x, 0, ABOVE_ONE).add_(raising, alpha=LEAK)


def _into_upper(gradient: Tensor, x: Tensor) -> Tensor:
    return _between(gradient, x, -TINY, ABOVE_ONE).add_(_between(gradient, x, 1, math.inf), alpha=LEAK)


class _LeakyHardSigmoids(torch.autograd.Function):
    """The lower and the upper one."""

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        lower = x.clamp(0, 1)
        return lower, torch.add(lower, (x - 1).clamp_(min=0), alpha=LEAK)

    @staticmethod
    def backward(ctx, into_lower: Tensor, into_upper: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return _into_lower(into_lower, x).add_(_into_upper(into_upper, x))


def leaky_hard_sigmoids(x: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper.

    The lower one is in [0, 1] and feeds the masks. The upper one is clamp(x, 0) up to 1 with slope LEAK above, and
    feeds the importance penalty, so that a slot stuck at 1 can come down.
    """
    lower, upper = _LeakyHardSigmoids.apply(x)
    return lower, upper


class SiteImportance(nn.Module):
    """RMS-normalise -> Linear(I, hidden) -> GELU -> Linear(hidden, K), with a leading axis of S instances.

    `fan_in`: how many inputs a hidden unit reads in all, where it reads those of other sites too; I by default.
    """

    def __init__(self, site: Site, slots: int, instances: int, hidden: int, fan_in: int | None = None):
        super().__init__()
        self.d_in, self.fan_in = site.d_in, fan_in or site.d_in
        self.read = nn.Parameter(torch.zeros(instances, site.d_in, hidden))
        self.read_bias = nn.Parameter(torch.zeros(instances, 1, hidden))
        self.write = nn.Parameter(torch.zeros(instances, hidden, slots))
        self.bias = nn.Parameter(torch.full((instances, 1, slots), 0.5))

    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming-normal reading, fan-in writing; the output bias stays at 0.5, halfway between off and on."""
        with torch.no_grad():
            self.read.normal_(generator=generator).mul_(math.sqrt(2 / self.fan_in))
            self.write.normal_(generator=generator).mul_(1 / math.sqrt(self.write.shape[1]))

    def forward(self, reading: SiteReading) -> Tensor:
        """Pre-sigmoid importances [S, B, *P, K] of a site's input."""
        return self.write_slots(self.read_site(reading))

    def read_site(self, reading: SiteReading) -> Tensor:
        """What hidden units read of a site's input, [S, B, *P, hidden]."""
        operation, x = reading.operation, reading.x
        energy = operation.inner(x.square(), x.new_ones(self.read.shape[0], self.d_in, 1)) / self.d_in
        return operation.inner(x, self.read) * torch.rsqrt(energy + 1e-6)

    def write_slots(self, read: Tensor) -> Tensor:
        """What hidden units read [S, B, *P, hidden] -> pre-sigmoid importances [S, B, *P, K]."""
        flat = functional.gelu(read.flatten(1, -2) + self.read_bias)
        logits = flat @ self.write + self.bias
        return logits.view(*read.shape[:-1], -1)


class SlotImportance(nn.Module):
    """Per slot, on its inner activation z: Linear(1, hidden) -> GELU -> Linear(hidden, 1); S instances of K slots.

    `hidden` times as much work per slot as reading it: prefer few units (16 in the paper).
    """

    def __init__(self, site: Site, slots: int, instances: int, hidden: int):
        super().__init__()
        self.read = nn.Parameter(torch.zeros(instances, slots, hidden))
        self.read_bias = nn.Parameter(torch.zeros(instances, slots, hidden))
        self.write = nn.Parameter(torch.zeros(instances, slots, hidden))
        self.bias = nn.Parameter(torch.full((instances, 1, slots), 0.5))

    def initialise(self, generator: torch.Generator) -> None:
        """Standard normal reading, fan-in writing; the output bias stays at 0.5, halfway between off and on."""
        with torch.no_grad():
            self.read.normal_(generator=generator)
            self.write.normal_(generator=generator).mul_(1 / math.sqrt(self.write.shape[2]))

    def forward(self, reading: SiteReading) -> Tensor:
        """Pre-sigmoid importances [S, B, *P, K] of a site's inner activations."""
        inner = reading.inner
        z = inner.flatten(1, -2).mT.flatten(0, 1)
        weights = (self.read.flatten(0, 1), self.read_bias.flatten(0, 1), self.write.flatten(0, 1))
        logits = scalar_networks(z, *weights).unflatten(0, (-1, inner.shape[-1])).mT.contiguous() + self.bias
        return logits.view(inner.shape)


class ImportanceFunctions(nn.ModuleList):
    """One function per site, each of what its own site reads."""

    def forward(self, readings: Sequence[SiteReading]) -> list[Tensor]:
        """Pre-sigmoid importances [S, B, *P, K], in the order of the sites."""
        return [function(reading) for function, reading in zip(self, readings, strict=True)]


class SharedImportance(ImportanceFunctions):
    """One MLP over all sites: Linear(sum I, hidden) on their normalised inputs -> GELU -> Linear(hidden, sum K).

    It is held as its parts at each site (SiteImportance), the hidden units' bias being each site's own. At a position,
    a site of the same positions is read there, and one of other positions on average; a site without positions is the
    same everywhere. Unlike the transformer of VPD it has one hidden layer, and no attention between positions.
    """

    def forward(self, readings: Sequence[SiteReading]) -> list[Tensor]:
        parts = [function for function in self if isinstance(function, SiteImportance)]
        reads = [part.read_site(reading) for part, reading in zip(parts, readings, strict=True)]
        sums = {shape: _all_seen_from(shape, reads) for shape in {read.shape for read in reads}}
        return [part.write_slots(sums[own.shape]) for part, own in zip(parts, reads, strict=True)]


def _all_seen_from(shape: torch.Size, reads: Sequence[Tensor]) -> Tensor:
    """The sum of `reads` [S, B, *Q, hidden] at positions of `shape` [S, B, *P, hidden], or of their means."""
    total = torch.zeros(shape, dtype=reads[0].dtype, device=reads[0].device)
    for read in reads:
        if read.shape != shape:
            pooled = read.flatten(2, -2).mean(2) if read.ndim > 3 else read
            read = pooled.view(*shape[:2], *[1] * (len(shape) - 3), shape[-1])
        total = total + read
    return total


ImportanceFunction = Literal["site", "slot", "shared"]


def importance_functions(
    kind: ImportanceFunction, sites: Sequence[Site], slots: Sequence[int], instances: int, hidden: int
) -> ImportanceFunctions:
    """Untrained functions of `kind` for sites of K = `slots` each."""
    pairs = list(zip(sites, slots, strict=True))
    match kind:
        case "site":
            return ImportanceFunctions(SiteImportance(site, k, instances, hidden) for site, k in pairs)
        case "slot":
            return ImportanceFunctions(SlotImportance(site, k, instances, hidden) for site, k in pairs)
        case "shared":
            fan_in = sum(site.d_in for site in sites)
            return SharedImportance(SiteImportance(site, k, instances, hidden, fan_in) for site, k in pairs)
