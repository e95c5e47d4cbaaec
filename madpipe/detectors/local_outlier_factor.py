"""How much sparser it is around a row than around its trusted neighbours."""

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.neighbours import nearest_rows
from madpipe.detectors.scaling import column_scales

SMALLEST_REACH = 1e-10  # scikit-learn's: a row among k copies of itself has a large density, not an infinite one


class LocalOutlierFactorDetector(Detector):
    """score = - mean_k density(neighbour) / density(x), with density = 1 / mean_k reach(x, neighbour) and
    reach(x, y) = max(|x - y|, distance of y to its own k-th neighbour), columns standardised. -1 in an even cloud.

    Breunig, Kriegel, Ng, Sander (2000), definitions 5 to 7. The same numbers as scikit-learn's LocalOutlierFactor with
    novelty=True, kept as plain arrays: no search tree has to be trusted when a saved detector is read.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "k": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, k: int = 20, contamination: float = 0.05):
        self.k = k
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.mean_, self.scale_ = column_scales(X)
        self.trusted_ = (X - self.mean_) / self.scale_
        self.k_ = min(self.k, len(X) - 1)
        indices, distances = _without_self(*nearest_rows(self.trusted_, self.trusted_, self.k_ + 1))
        self.kth_distance_ = distances[:, -1]
        self.density_ = self._density(indices, distances)

    def _score_samples(self, X: Floats) -> Floats:
        rows = (X - self.mean_) / self.scale_
        indices, distances = nearest_rows(self.trusted_, rows, self.k_)
        scores: Floats = -self.density_[indices].mean(axis=1) / self._density(indices, distances)
        return scores

    def _density(self, indices: NDArray[np.int64], distances: Floats) -> Floats:
        reach = np.maximum(distances, self.kth_distance_[indices]).mean(axis=1)
        density: Floats = 1 / (reach + SMALLEST_REACH)
        return density


def _without_self(indices: NDArray[np.int64], distances: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Drops each row itself from its k + 1 nearest, or the farthest where more than k copies of it hide it."""
    is_self = indices == np.arange(len(indices))[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    return indices[~is_self].reshape(shape), distances[~is_self].reshape(shape)
