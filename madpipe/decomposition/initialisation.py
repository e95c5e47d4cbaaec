"""Where slots start: near zero, reading only directions that trusted inputs excite, or at the target's weights."""

import math

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel

KEPT_MOMENT = 0.999  # share of the second moment of a site's trusted inputs that reading directions may lie in


def second_moment_span(inputs: Tensor, kept: float = KEPT_MOMENT) -> Tensor:
    """Orthonormal basis [I, k] of the smallest principal span holding `kept` of the second moment of rows [N, I]."""
    moment = inputs.t() @ inputs / inputs.shape[0]
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum().clamp(min=1e-30)
    count = int((shares < kept).sum()) + 1
    return vectors[:, :count].to(inputs.dtype)


@torch.no_grad()
def start_near_zero(model: ComponentModel, index: int, span: Tensor, generator: torch.Generator) -> None:
    """V: random unit vectors in `span` [I, k]. U: N(0, 1) * 0.3 |W|_F / sqrt(O K) * sqrt(k / K): the sum is small."""
    V, U = model.V[index], model.U[index]
    S, _, K = V.shape
    k = span.shape[1]
    directions = span @ torch.randn(S, k, K, generator=generator)
    V.copy_(directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-12))
    norm = float(model.weight(index).norm())
    scale = 0.3 * norm / math.sqrt(U.shape[2] * K) * math.sqrt(k / K)
    U.copy_(torch.randn(U.shape, generator=generator) * scale)


@torch.no_grad()
def start_at_weights(model: ComponentModel, index: int, span: Tensor, generator: torch.Generator) -> None:
    """Sum of slots = W on the directions in `span` [I, k], zero on the others: exact on trusted inputs from the start.

    V: random unit vectors in the column space of the projected weight, U = V^+ W. Exact where its rank is at most K;
    with fewer slots the sum is the projection on what V spans.
    """
    V, U = model.V[index], model.U[index]
    S, _, K = V.shape
    projected = span @ (span.t() @ model.weight(index))
    left, values, _ = torch.linalg.svd(projected.double(), full_matrices=False)
    rank = max(int((values > 1e-6 * values[0]).sum()), 1)
    basis = left[:, :rank].to(V.dtype)
    directions = basis @ torch.randn(S, rank, K, generator=generator)
    V.copy_(directions / directions.norm(dim=1, keepdim=True))
    U.copy_((torch.linalg.pinv(V.double()) @ projected.double()).to(U.dtype))
