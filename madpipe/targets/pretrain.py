"""Training of the built-in targets: a small plain loop, seeded, on one thread, the same bits on every run on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch: inputs [B, ...], labels as the loss wants them."""

    inputs: Tensor
    labels: Tensor


Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, O], labels) -> scalar."""

Penalty = Callable[[int], Tensor]
"""step -> scalar, added to the loss."""

Network = TypeVar("Network", bound=nn.Module)


def build_seeded(factory: Callable[[], Network], seed: int) -> Network:
    """The factory's network with initial weights that depend on `seed` alone; the caller's random state stays."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory()


def hidden_activations(module: nn.Sequential, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    """(output of every ReLU in order, each [B, ...]; logits [B, O])."""
    hidden, values = [], inputs
    for layer in module:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            hidden.append(values)
    return hidden, values


def pretrain(
    module: nn.Module,
    batches: Iterator[Batch],
    loss: Loss,
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    penalty: Penalty | None = None,
) -> None:
    """Trains in place with AdamW on a one-cycle schedule (rise over a tenth of the steps, cosine to zero).

    The module ends frozen and in eval mode. It does not save, log or stop early.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1, pct_start=0.1)
    module.train()
    with one_thread():
        for step in range(steps):
            batch = next(batches)
            total = loss(module(batch.inputs), batch.labels)
            if penalty is not None:
                total = total + penalty(step)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            schedule.step()
    module.eval().requires_grad_(False)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: then the order of additions, and so the bits, do not depend on core counts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
