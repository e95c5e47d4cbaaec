"""Causal importance: how far a slot may not be ablated on this input, predicted from what the site reads.

`site`: one small MLP per site on the site's whole RMS-normalised input, at each position. `slot`: one per slot on its
inner activation, as in SPD (arXiv 2506.20790, section 2.3 and appendix A). Leaky-hard sigmoids on top.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from madpipe.components.layers import SiteOperation
from madpipe.components.sites import Site

LEAK = 0.01  # slope outside [0, 1], SPD section 2.3


class _LowerLeakyHardSigmoid(torch.autograd.Function):
    """clamp(x, 0, 1); below 0 the gradient is LEAK, and only where it would raise x (a negative slope is unstable)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        inside = gradient * ((x > 0) & (x <= 1))
        return inside + gradient.clamp(max=0) * (LEAK * (x <= 0))


def lower_leaky_hard_sigmoid(x: Tensor) -> Tensor:
    """In [0, 1]; feeds the masks."""
    result: Tensor = _LowerLeakyHardSigmoid.apply(x)
    return result


def upper_leaky_hard_sigmoid(x: Tensor) -> Tensor:
    """clamp(x, 0) up to 1, slope LEAK above; feeds the importance penalty, so that a slot stuck at 1 can come down."""
    return x.clamp(0, 1) + LEAK * functional.relu(x - 1)


class SiteImportance(nn.Module):
    """RMS-normalise -> Linear(I, hidden) -> GELU -> Linear(hidden, K), with a leading axis of S instances."""

    def __init__(self, site: Site, slots: int, instances: int, hidden: int):
        super().__init__()
        self.d_in = site.d_in
        self.read = nn.Parameter(torch.zeros(instances, site.d_in, hidden))
        self.read_bias = nn.Parameter(torch.zeros(instances, 1, hidden))
        self.write = nn.Parameter(torch.zeros(instances, hidden, slots))
        self.bias = nn.Parameter(torch.full((instances, 1, slots), 0.5))

    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming-normal reading, fan-in writing; the output bias stays at 0.5, halfway between off and on."""
        with torch.no_grad():
            self.read.normal_(generator=generator).mul_(math.sqrt(2 / self.read.shape[1]))
            self.write.normal_(generator=generator).mul_(1 / math.sqrt(self.write.shape[1]))

    def forward(self, x: Tensor, operation: SiteOperation, V: Tensor) -> Tensor:
        """Site input [S*B, ...] -> pre-sigmoid importances [S, B, *P, K]; `V` is not read."""
        energy = operation.inner(x.square(), x.new_ones(self.read.shape[0], self.d_in, 1)) / self.d_in
        hidden = operation.inner(x, self.read) * torch.rsqrt(energy + 1e-6)
        positions = hidden.shape[2:-1]
        flat = functional.gelu(hidden.flatten(1, -2) + self.read_bias)
        logits = flat @ self.write + self.bias
        return logits.view(*hidden.shape[:2], *positions, -1)


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

    def forward(self, x: Tensor, operation: SiteOperation, V: Tensor) -> Tensor:
        """Site input [S*B, ...] and V [S, I, K] -> pre-sigmoid importances [S, B, *P, K]."""
        inner = operation.inner(x, V)
        z = inner.flatten(1, -2)[..., None]
        hidden = functional.gelu(z * self.read[:, None] + self.read_bias[:, None])
        logits = (hidden * self.write[:, None]).sum(-1) + self.bias
        return logits.view(inner.shape)


ImportanceFunction = Literal["site", "slot"]
IMPORTANCE_FUNCTIONS: dict[ImportanceFunction, type[SiteImportance] | type[SlotImportance]] = {
    "site": SiteImportance,
    "slot": SlotImportance,
}
