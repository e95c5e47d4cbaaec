"""Gram matrices of each layer's units over positions, of powers of their activations: which units are on together.

With one position, G_ij = x_i x_j. Ma et al. (2023, Beatrix); Sastry and Oore (2020), whose row sums stand in where the
matrix would be too wide.
"""

import torch
from pydantic import field_validator
from torch import Tensor

from madpipe.patterns.activations import site_patterns, with_predicted_class
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns

LARGEST_BLOCK = 2**23  # entries of Gram matrices held at once


class GramMatricesConfig(ExtractorConfig):
    """orders: the powers p. widest: units above which a matrix's row sums stand in for its entries."""

    orders: tuple[int, ...] = tuple(range(1, 9))
    widest: int = 64
    predicted_class: bool = True

    @field_validator("orders")
    @classmethod
    def _orders_are_powers(cls, orders: tuple[int, ...]) -> tuple[int, ...]:
        if not orders or min(orders) < 1:
            raise ValueError("needs one or more whole numbers of at least 1.")
        return orders


class GramMatrices(Extractor):
    """Features `<site>.<i>` of each hidden site: for each order p the entries i <= j of sign(G) |G|^(1/p), with G =
    sum over positions of x^p (x^p)^T. Where there is one position all orders are alike, and only the first is taken.
    """

    Config = GramMatricesConfig
    name = "gram_matrices"
    passes = 1.0
    config: GramMatricesConfig

    def extract(self, observation: Observation) -> Patterns:
        kinds = {site.name: site.kind for site in self.method.model.sites}
        blocks = {}
        for name in self.method.hidden_sites() or list(kinds)[-1:]:
            units = units_by_position(observation.clean.site_inputs[name][0], kinds[name])
            orders = self.config.orders if units.shape[2] > 1 else (1,)
            blocks[name] = torch.cat([gram_features(units, order, self.config.widest) for order in orders], 1)
        return with_predicted_class(blocks, observation) if self.config.predicted_class else site_patterns(blocks)


def units_by_position(x: Tensor, kind: str) -> Tensor:
    """A site's input, [B, C, H, W] of a convolution or [B, *P, C], as [B, C, positions]."""
    return x.flatten(2) if kind == "conv2d" else x.reshape(len(x), -1, x.shape[-1]).mT


def gram_features(units: Tensor, order: int, widest: int) -> Tensor:
    """[B, C, P] -> [B, C (C + 1) / 2], or row sums [B, C] where C is above `widest`."""
    largest = units.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(units.dtype).tiny)  # powers stay finite
    powers = (units / largest) ** order
    if units.shape[1] <= widest:
        i, j = torch.triu_indices(units.shape[1], units.shape[1], device=units.device)
        return _rooted(powers @ powers.mT, order)[:, i, j] * largest[:, 0] ** 2
    if order == 1:
        return (powers @ powers.sum(1, keepdim=True).mT)[:, :, 0] * largest[:, 0] ** 2
    size = max(LARGEST_BLOCK // (len(units) * units.shape[1]), 1)
    sums = [_rooted(part @ powers.mT, order).sum(2) for part in powers.split(size, dim=1)]
    return torch.cat(sums, 1) * largest[:, 0] ** 2


def _rooted(gram: Tensor, order: int) -> Tensor:
    return gram if order == 1 else gram.sign() * gram.abs() ** (1 / order)
