"""scikit-learn's bundled 8x8 digits, in disjoint pools by seed."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits

from madpipe.tasks.task import stream

CLASSES = 10
POOLS = {"trusted": 350, "untrusted": 140, "test normal": 300, "test anomalous": 330}
"""Images set aside for each use; the other 677 of the 1,797 train the target."""


@dataclass(frozen=True)
class Digits:
    """Images float32 [n, 8, 8] in [0, 1] with labels int64 [n]."""

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "Digits":
        return Digits(self.images[rows], self.labels[rows])


def split_digits(seed: int) -> dict[str, Digits]:
    """Every image in exactly one of the POOLS or in "training"."""
    bunch = load_digits()
    digits = Digits((bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64))
    order = stream(seed, "split").permutation(len(digits.labels))
    parts = np.split(order, np.cumsum(list(POOLS.values())))
    return {name: digits[rows] for name, rows in zip([*POOLS, "training"], parts, strict=True)}


def as_input(images: np.ndarray, shape: list[int]) -> torch.Tensor:
    """float32 [n, *shape], the shape that the network reads."""
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32).reshape(-1, *shape))
