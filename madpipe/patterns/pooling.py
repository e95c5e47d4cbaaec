"""Positions to one row per input."""

from torch import Tensor


def largest(values: Tensor) -> Tensor:
    """[S, B, *P, K] -> [S, B, K], the entry of largest magnitude over positions, with its sign."""
    if values.ndim == 3:
        return values
    flat = values.flatten(2, -2)
    index = flat.abs().argmax(2, keepdim=True)
    return flat.gather(2, index).squeeze(2)


def summed(values: Tensor) -> Tensor:
    """[S, B, *P, K] -> [S, B, K], sums over positions."""
    return values if values.ndim == 3 else values.flatten(2, -2).sum(2)


def root_mean_square(values: Tensor) -> Tensor:
    """[S, B, ...] -> [S, B], over everything but instance and input."""
    return values.flatten(2).square().mean(2).sqrt()
