"""Rows of independent sparse features, the inputs of toy models whose mechanisms are known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from madpipe.targets.pretrain import Batch


@dataclass(frozen=True)
class SparseFeatures:
    """Each of `count` features is, independently, U[low, 1] with `probability`, and 0 otherwise."""

    count: int
    probability: float
    low: float

    def rows(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """float32 [number, count]."""
        active = rng.random((number, self.count), dtype=np.float32) < self.probability
        values = np.zeros(active.shape, np.float32)
        values[active] = rng.uniform(self.low, 1.0, int(active.sum()))
        return values

    def batches(self, size: int, label: Callable[[Tensor], Tensor], rng: np.random.Generator) -> Iterator[Batch]:
        """Fresh rows for ever, each batch labelled by `label`."""
        while True:
            inputs = torch.from_numpy(self.rows(size, rng))
            yield Batch(inputs=inputs, labels=label(inputs))
