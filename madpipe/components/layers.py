"""What each kind of site computes, split into reading (x to inner activations) and writing (to the site's output).

Legend: S instances trained side by side, B inputs, P positions (none for a plain Linear), I = d_in, O = d_out,
K slots. A slot is one rank-one matrix V[:, k] U[k, :]; tensors from the network have S and B in one leading axis.
"""

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from madpipe.components.sites import Site


class SiteOperation(Protocol):
    """The linear map of one site. Everything here but `add_bias` leaves the bias out."""

    def inner(self, x: Tensor, V: Tensor) -> Tensor:
        """[S*B, ...] and V [S, I, K] -> inner activations [S, B, *P, K]."""
        ...

    def write(self, inner: Tensor, U: Tensor, onto: Tensor | None = None) -> Tensor:
        """[S, B, *P, K] and U [S, K, O] -> the site's output [S*B, ...], plus `onto` of its shape."""
        ...

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """[S*B, ...] and matrices [S, I, O] -> the site's output [S*B, ...]."""
        ...

    def positions(self, y: Tensor, instances: int) -> Tensor:
        """The site's output [S*B, ...] with its features last: [S, B, *P, O]."""
        ...

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        """The site's output [S*B, ...] with `bias` [O], which is never decomposed. Added into `y`."""
        ...


class SiteReading:
    """What a site reads in a pass, x [S*B, ...], and what follows from it, each computed once.

    V [S, I, K]; `weight` is the site's own, [I, O]; `written` is W x where it is known.
    """

    def __init__(self, operation: SiteOperation, x: Tensor, V: Tensor, weight: Tensor, written: Tensor | None = None):
        self.operation, self.x = operation, x
        self._V, self._weight, self._written = V, weight, written

    @cached_property
    def inner(self) -> Tensor:
        """Inner activations, [S, B, *P, K]."""
        return self.operation.inner(self.x, self._V)

    @cached_property
    def written(self) -> Tensor:
        """W x, without the bias: [S*B, ...]."""
        known = self._written
        return self.operation.apply_weights(self.x, self._weight[None]) if known is None else known

    def written_in_share(self, share: Tensor) -> Tensor:
        """W x times share [S*B]. Where W x is not known and wider than x, x is scaled instead."""
        known = self._written is not None or "written" in self.__dict__
        if known or self._weight.shape[0] >= self._weight.shape[1]:
            return _per_row(share, self.written) * self.written
        return self.operation.apply_weights(_per_row(share, self.x) * self.x, self._weight[None])


def _per_row(share: Tensor, of: Tensor) -> Tensor:
    return share.view(-1, *[1] * (of.ndim - 1))


class LinearOperation:
    """y = x W^T + b on the last axis; axes between the first and the last are positions."""

    def inner(self, x: Tensor, V: Tensor) -> Tensor:
        S = V.shape[0]
        flat = x.reshape(S, -1, x.shape[-1]) @ V
        return flat.view(S, x.shape[0] // S, *x.shape[1:-1], V.shape[-1])

    def write(self, inner: Tensor, U: Tensor, onto: Tensor | None = None) -> Tensor:
        S, B = inner.shape[:2]
        flat = inner.reshape(S, -1, inner.shape[-1])
        written = flat @ U if onto is None else torch.baddbmm(onto.reshape(*flat.shape[:2], -1), flat, U)
        return written.view(S * B, *inner.shape[2:-1], U.shape[-1])

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        S = weights.shape[0]
        flat = x.reshape(S, -1, x.shape[-1]) @ weights
        return flat.view(*x.shape[:-1], weights.shape[-1])

    def positions(self, y: Tensor, instances: int) -> Tensor:
        return y.view(instances, -1, *y.shape[1:])

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y.add_(bias)


class Conv2dOperation:
    """A convolution: reading is a convolution with K filters, writing a map over channels at each position.

    Under a padding mode other than zeros the module pads before it convolves: what the site reads is padded already.
    """

    def __init__(self, module: nn.Conv2d):
        self.kernel = (module.in_channels, *module.kernel_size)
        self.stride, self.dilation = module.stride, module.dilation
        self.padding: str | int | tuple[int, ...] = module.padding if module.padding_mode == "zeros" else 0

    def inner(self, x: Tensor, V: Tensor) -> Tensor:
        return self.positions(self._convolve(x, V), V.shape[0])

    def write(self, inner: Tensor, U: Tensor, onto: Tensor | None = None) -> Tensor:
        S, B, H, W, K = inner.shape
        flat = inner.reshape(S, -1, K) @ U
        written = flat.view(S * B, H, W, -1).permute(0, 3, 1, 2)
        return written if onto is None else written + onto

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._convolve(x, weights)

    def positions(self, y: Tensor, instances: int) -> Tensor:
        return y.permute(0, 2, 3, 1).view(instances, -1, *y.shape[2:], y.shape[1])

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        return y if bias is None else y.add_(bias[:, None, None])

    def _convolve(self, x: Tensor, filters: Tensor) -> Tensor:
        """[S*B, c, H, W] with matrices [S, I, F], one convolution per instance: [S*B, F, H', W']."""
        weights = [f.t().reshape(-1, *self.kernel) for f in filters]
        parts = x.chunk(len(weights)) if len(weights) > 1 else (x,)
        outputs = [
            functional.conv2d(part, w, stride=self.stride, padding=self.padding, dilation=self.dilation)
            for part, w in zip(parts, weights, strict=True)
        ]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def site_operation(site: Site, module: nn.Module) -> SiteOperation:
    """The operation of `site`, whose module is `module`."""
    if site.kind == "linear":
        assert isinstance(module, nn.Linear)
        return LinearOperation()
    assert isinstance(module, nn.Conv2d)
    return Conv2dOperation(module)


def weight_matrix(module: nn.Module) -> Tensor:
    """The site's weight as a matrix [I, O]."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().reshape(weight.shape[0], -1).t()
