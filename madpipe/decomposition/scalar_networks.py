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
        z = z.contiguous()  # blocks of rows: a transposed view would be read a cache line for each number
        ctx.save_for_backward(z, a, b, w)
        y, affine = torch.empty_like(z), torch.stack([a, b], 2)
        for k, n, hidden in _blocks(z, a.shape[1]):
            torch.ops.aten.gelu_(torch.bmm(affine[k], _with_ones(z[k, n]), out=hidden))
            y[k, n] = (w[k, None] @ hidden)[:, 0]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, a, b, w = ctx.saved_tensors
        gradient = gradient.contiguous()
        H, normal, none = a.shape[1], math.sqrt(2 * math.pi), torch.zeros_like(a)
        affine, of_one = torch.stack([a, b], 2) / math.sqrt(2), torch.stack([(w * a).sum(1) / 2, none[:, 0]], 1)
        of_erf, of_exp = torch.stack([w * a / 2, none], 1), torch.stack([w * a * b, w * a * a], 1) / normal
        slopes = torch.cat([of_erf, of_exp, of_one[:, :, None]], 2)  # [K, 2, 2 H + 1], of gelu: in z^0 and in z^1
        into_z = torch.empty_like(z)
        sums = z.new_zeros(len(z), 3, 2 * H + 1)  # over n, of g z^i times erf(u / sqrt 2), exp(-u^2 / 2) and 1
        for k, n, units in _blocks(z, 2 * H + 1):
            own, g = z[k, n], gradient[k, n]
            scaled, bell = units[:, :H], units[:, H : 2 * H]
            torch.bmm(affine[k], _with_ones(own), out=scaled)
            torch.square(scaled, out=bell).neg_().exp_()
            scaled.erf_()
            units[:, 2 * H] = 1
            of_g = g * own
            sums[k].baddbmm_(torch.stack([g, of_g, of_g * own], 1), units.mT)
            constant, linear = (slopes[k] @ units).unbind(1)
            torch.mul(torch.addcmul(constant, linear, own), g, out=into_z[k, n])
        Phi, phi = (sums[:, :, 2 * H :] + sums[:, :, :H]) / 2, sums[:, :, H : 2 * H] / normal
        into_b = w * (Phi[:, 0] + a * phi[:, 1] + b * phi[:, 0])
        into_a = w * (Phi[:, 1] + a * phi[:, 2] + b * phi[:, 1])
        return into_z, into_a, into_b, a * Phi[:, 1] + b * Phi[:, 0]


def _with_ones(z: Tensor) -> Tensor:
    """[k, n] -> [k, 2, n]: what the slope and the bias of a unit are multiplied by."""
    return torch.stack([z, torch.ones_like(z)], 1)


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
