"""Importance functions that begin by what a sparse start knows: on which trusted inputs each atom is of use."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

STEPS = 400  # of full batches; more change nothing
LEARNING_RATE = 1e-2


def fit_importances(
    logits: Callable[[], Mapping[str, Tensor]], used: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]
) -> None:
    """Train `parameters` until pre-sigmoid importances are 1 or more where an atom is of use, 0 or less elsewhere.

    `logits` gives site -> [S, N, *P, K] of fixed rows; `used` says site -> bool [S, N, K]. Squared hinges, each side of
    them a mean of its own for every slot: a rare mechanism weighs as much as a frequent one. Where there are positions,
    the largest counts.
    """
    optimizer = torch.optim.Adam(list(parameters), lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            found = logits()
            loss = torch.stack([_hinges(found[site], on) for site, on in used.items()]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def _hinges(logits: Tensor, on: Tensor) -> Tensor:
    highest = logits.flatten(2, -2).amax(2) if logits.ndim > 3 else logits
    wanted, unwanted = (1 - highest).clamp(min=0).square() * on, highest.clamp(min=0).square() * ~on
    on_count = on.sum(1).clamp(min=1)
    off_count = (~on).sum(1).clamp(min=1)
    return (wanted.sum(1) / on_count + unwanted.sum(1) / off_count).sum()
