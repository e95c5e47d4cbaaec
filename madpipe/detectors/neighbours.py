"""Nearest trusted rows by Euclidean distance, the same to the last digit whatever else is in the batch."""

import numpy as np
from numpy.typing import NDArray

from madpipe.detectors.detector import Floats

LARGEST_BLOCK = 2**22  # distances held at once: 32 MiB


def nearest_rows(trusted: Floats, X: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """For each row of X the indices of its k nearest trusted rows and their distances, nearest first; both [n, k].

    A matrix product finds the candidates; their distances are then taken from the differences, so that a row's distance
    to its own copy is 0 and not the rounding error of |x|^2 - 2 x.y + |y|^2.
    """
    squares = np.einsum("nf,nf->n", trusted, trusted)
    indices, distances = np.empty((len(X), k), np.int64), np.empty((len(X), k))
    size = max(LARGEST_BLOCK // max(len(trusted), k * X.shape[1]), 1)
    for start in range(0, len(X), size):
        rows = X[start : start + size]
        closeness = squares - 2 * (rows @ trusted.T)
        nearest = np.argpartition(closeness, k - 1, axis=1)[:, :k]
        exact = np.linalg.norm(rows[:, None] - trusted[nearest], axis=2)
        order = np.argsort(exact, axis=1, kind="stable")
        indices[start : start + size] = np.take_along_axis(nearest, order, axis=1)
        distances[start : start + size] = np.take_along_axis(exact, order, axis=1)
    return indices, distances
