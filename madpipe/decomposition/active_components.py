"""Which components are active, given their attributions [S, B, C], or squares of these: a bool mask of that shape."""

import numpy
import torch
from torch import Tensor


def pair_counts(k: Tensor | float, inputs: int, components: int) -> Tensor:
    """How many pairs of a batch are active, k for an input on average; `k` one for all instances, or [S]: [] or [S]."""
    return (torch.as_tensor(k, dtype=torch.double).cpu() * inputs).long().clamp(1, inputs * components)


def batch_top_k(attributions: Tensor, k: Tensor | float, inputs: int | None = None) -> Tensor:
    """The k*B largest (input, component) pairs of each instance's batch as a bool mask: [S, B, C] -> [S, B, C].

    `k` is one for all instances, or [S]; `inputs` stands for B where the batch has more inputs than these, whose pairs
    are smaller. Of equal pairs the first are taken.
    """
    S, B, C = attributions.shape
    counts = pair_counts(k, inputs or B, C).clamp(max=B * C).expand(S)
    return largest(attributions.flatten(1), counts.tolist()).view(S, B, C)


def largest(values: Tensor, counts: list[int]) -> Tensor:
    """Where the `counts[s]` largest of each row of `values` [S, n] are, of equal ones the first: bool [S, n]."""
    least = _ranked(values, counts)
    chosen = values >= least[:, None]
    for s, found in enumerate(chosen.sum(1).tolist()):
        if found > counts[s]:
            equal = (values[s] == least[s]).nonzero()[:, 0]
            chosen[s, equal[counts[s] - found :]] = False
    return chosen


def _ranked(values: Tensor, ranks: list[int]) -> Tensor:
    """The `ranks[s]`-th largest number of each row of `values` [S, n]: [S]."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return torch.stack([row.topk(rank).values[-1] for row, rank in zip(values, ranks, strict=True)])
    places = [values.shape[1] - rank for rank in ranks]
    parted = numpy.partition(values.numpy(), sorted(set(places)), axis=1)  # a tenth of the time of torch's topk
    return torch.from_numpy(parted[range(len(places)), places])


def top_k(attributions: Tensor, k: int) -> Tensor:
    """The k largest of each input, the rest of its batch notwithstanding."""
    return torch.zeros_like(attributions, dtype=torch.bool).scatter_(-1, attributions.topk(k, dim=-1).indices, True)


def threshold_of(attributions: Tensor, k: float) -> Tensor:
    """The attribution that k components per input pass on average, of the first million of [B, C]: a scalar."""
    share = min(k / attributions.shape[1], 1.0)
    return torch.quantile(attributions.flatten().float()[:1_000_000], 1 - share)
