"""Which components are active, given their attributions [S, B, C], or squares of these: a 0/1 mask of that shape."""

import torch
from torch import Tensor


def batch_top_k(attributions: Tensor, k: Tensor | float) -> Tensor:
    """The k*B largest (input, component) pairs of each instance's batch as a 0/1 mask: [S, B, C] -> [S, B, C].

    `k` is one for all instances, or [S].
    """
    S, B, C = attributions.shape
    counts = (torch.as_tensor(k, dtype=torch.double).cpu() * B).long().clamp(1, B * C).expand(S)
    flat = attributions.flatten(1)
    most, alike = int(counts.max()), bool((counts == counts[0]).all())
    chosen = flat.topk(most, dim=1, sorted=not alike).indices  # an order costs twice the choice, and is of use only
    kept = torch.arange(most) < counts[:, None]  # where some instance takes the first of its own alone
    return torch.zeros_like(flat).scatter_(1, chosen, kept.to(flat)).view(S, B, C)


def top_k(attributions: Tensor, k: int) -> Tensor:
    """The k largest of each input, the rest of its batch notwithstanding."""
    return torch.zeros_like(attributions).scatter_(-1, attributions.topk(k, dim=-1).indices, 1.0)


def threshold_of(attributions: Tensor, k: float) -> Tensor:
    """The attribution that k components per input pass on average, of the first million of [B, C]: a scalar."""
    share = min(k / attributions.shape[1], 1.0)
    return torch.quantile(attributions.flatten().float()[:1_000_000], 1 - share)
