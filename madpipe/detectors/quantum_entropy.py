"""How far a row lies in the directions in which untrusted rows spread more than trusted ones: offline."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Floats, OfflineDetector
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.sites import SiteDetector

LARGEST_VALUE = 1e100  # of a whitened row: its square, summed over columns, is finite


class QuantumEntropy(SiteDetector, OfflineDetector):
    """score = -sum_l h^T Q h / trace(Q) at each site l, with h a row whitened by the trusted mean and covariance, S the
    second moment of whitened untrusted rows, |S| its largest eigenvalue, and

        Q = exp(alpha (S - I) / (|S| - 1)),    or I where |S| <= 1.

    QUE of Dong, Hopkins, Li (2019), as in SPECTRE by Hayase, Kong, Somani, Oh (2021), whose robust estimate of the
    clean mean and covariance is here the trusted rows' own. `alpha` 0 is the sum of squared Mahalanobis distances,
    infinite the projection on one direction; 4 is their choice. Offline: it wants `untrusted` rows with some anomalies.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SiteDetector._parameter_constraints,
        "alpha": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, *, alpha: float = 4.0, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.alpha = alpha
        self.sites = sites
        self.contamination = contamination

    def _fit_mixed(self, X: Floats, untrusted: Floats) -> None:
        self.of_sites_ = [MahalanobisDetector().fit(group) for group in self._groups(X)]
        pairs = zip(self.of_sites_, self._groups(untrusted), strict=True)
        learned = [_directions(_whitened(detector, group), self.alpha) for detector, group in pairs]
        self.directions_ = [directions for directions, _, _ in learned]
        self.weights_ = [weights for _, weights, _ in learned]
        self.other_weights_ = [other for _, _, other in learned]

    def _score_samples(self, X: Floats) -> Floats:
        scores = np.zeros(len(X))
        parts = zip(self._groups(X), self.of_sites_, self.directions_, self.weights_, self.other_weights_, strict=True)
        for group, detector, directions, weights, other in parts:
            rows = _whitened(detector, group)
            along = rows @ directions.T
            across = np.maximum((rows**2).sum(axis=1) - (along**2).sum(axis=1), 0)
            scores -= (along**2) @ weights + other * across
        return scores


def _whitened(detector: MahalanobisDetector, rows: Floats) -> Floats:
    return np.clip(detector.whitened(rows), -LARGEST_VALUE, LARGEST_VALUE)


def _directions(rows: Floats, alpha: float) -> tuple[Floats, Floats, float]:
    """Eigenvectors [k, F] of rows' second moment, their weights Q_k / trace(Q) [k], and the weight of all others."""
    _, singular, directions = np.linalg.svd(rows, full_matrices=False)
    values, others = singular**2 / len(rows), rows.shape[1] - len(singular)
    largest = float(values.max())
    rate = alpha / (largest - 1) if largest > 1 else 0.0
    weights, other = np.exp(rate * (values - largest)), float(np.exp(-rate * largest))  # both over exp(rate largest)
    trace = float(weights.sum()) + others * other
    return directions, weights / trace, other / trace
