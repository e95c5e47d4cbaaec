"""Many networks of one input and one output, Linear(1, H) -> GELU -> Linear(H, 1), one for each row of z [K, N].

    y_kn = sum_h w_kh gelu(a_kh z_kn + b_kh)

Written out, values and gradients need [K, H, N] tensors, and on a CPU the time goes into moving them. Here they exist
for a block of at most BLOCK numbers at a time, which stays in the cache, and are made again for the gradients instead
of being kept; these need the normal distribution's Phi and phi at each unit and sums of them over n alone:
gelu(u) = u Phi(u), gelu'(u) = Phi(u) + u phi(u). All blocks use the same memory, since fresh pages cost more than the
arithmetic.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**18  # numbers: a megabyte of float32, about half of what a core caches


def scalar_networks(z: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """z [K, N]; a, b, w [K, H] -> y [K, N], in the weights' precision. Differentiable once, in all four."""
    with torch.autocast(z.device.type, enabled=False):  # sums over n need more digits than bfloat16 has
        result: Tensor = _ScalarNetworks.apply(z.to(a.dtype), a, b, w)
    return result


class _ScalarNetworks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(z, a, b, w)
        y = torch.empty_like(z)
        affine, inputs = torch.stack([a, b], 2), torch.stack([z, torch.ones_like(z)], 1)
        for k, n, hidden in _blocks(z, a.shape[1]):
            torch.ops.aten.gelu_(torch.bmm(affine[k], inputs[k, :, n], out=hidden))
            y[k, n] = (w[k, None] @ hidden)[:, 0]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, a, b, w = ctx.saved_tensors
        H, normal = a.shape[1], math.sqrt(2 * math.pi)
        affine, inputs = torch.stack([a, b], 2) / math.sqrt(2), torch.stack([z, torch.ones_like(z)], 1)
        powers = torch.stack([gradient, gradient * z, gradient * z.square()], 1)  # [K, 3, N]
        of_erf, of_exp = torch.stack([w * a / 2, torch.zeros_like(a)], 1), torch.stack([w * a * b, w * a * a], 1)
        into_z = torch.cat([of_erf, of_exp / normal], 2)  # [K, 2, 2 H]
        slopes = z.new_empty(len(z), 2, z.shape[1])
        sums = z.new_zeros(len(z), 3, 2 * H)  # over n, of g z^i erf(u / sqrt 2) and of g z^i exp(-u^2 / 2)
        for k, n, units in _blocks(z, 2 * H):
            scaled, bell = units[:, :H], units[:, H:]
            torch.bmm(affine[k], inputs[k, :, n], out=scaled)
            torch.square(scaled, out=bell).neg_().exp_()
            scaled.erf_()
            sums[k] += powers[k, :, n] @ units.mT
            slopes[k, :, n] = into_z[k] @ units
        slope = slopes[:, 0] + z * slopes[:, 1] + (w * a).sum(1, keepdim=True) / 2
        Phi, phi = (powers.sum(2, keepdim=True) + sums[:, :, :H]) / 2, sums[:, :, H:] / normal
        into_b = w * (Phi[:, 0] + a * phi[:, 1] + b * phi[:, 0])
        into_a = w * (Phi[:, 1] + a * phi[:, 2] + b * phi[:, 1])
        return gradient * slope, into_a, into_b, a * Phi[:, 1] + b * Phi[:, 0]


def _blocks(z: Tensor, hidden: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Slices k of the rows and n of the columns of z [K, N] of at most BLOCK units, and memory for [k, hidden, n]."""
    K, N = z.shape
    columns = min(N, max(BLOCK // hidden, 1))
    rows = min(K, max(BLOCK // (hidden * columns), 1))
    memory = z.new_empty(rows * hidden * columns)
    for k in range(0, K, rows):
        for n in range(0, N, columns):
            shape = (min(rows, K - k), hidden, min(columns, N - n))
            yield slice(k, k + rows), slice(n, n + columns), memory[: math.prod(shape)].view(shape)
