"""Distance from the trusted mean, measured in the trusted covariance."""

import numpy as np
from sklearn.covariance import ledoit_wolf_shrinkage

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.scaling import column_scales

RIDGE = 1e-6  # of the standardised unit variance: keeps the covariance invertible where shrinkage comes out as zero


class MahalanobisDetector(Detector):
    """score = -sqrt(x^T P x) for standardised columns x, P the inverse of the shrunk covariance

        (1 - d) S + d m I,    m = trace(S) / F,    d from Ledoit and Wolf (2004), eq. 14.

    The covariance is kept as its min(n, F) principal directions and one variance for all others, so memory is F min(n,
    F) and more columns than rows are no trouble.
    """

    def __init__(self, *, contamination: float = 0.05):
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.mean_, self.scale_ = column_scales(X)
        rows = (X - self.mean_) / self.scale_
        self.shrinkage_ = float(ledoit_wolf_shrinkage(rows, assume_centered=True)) if rows.any() else 1.0
        _, singular, self.directions_ = np.linalg.svd(rows, full_matrices=False)
        variances = singular**2 / len(rows)
        self.other_variance_ = self.shrinkage_ * float(variances.sum()) / X.shape[1] + RIDGE
        self.variances_ = (1 - self.shrinkage_) * variances + self.other_variance_

    def leave_one_out_distances(self, X: Floats) -> Floats:
        """Distances of the fitted rows X [n, F], each from the mean and in the covariance of the n - 1 others.

        In closed form (Sherman and Morrison), shrinkage and column scales being those of all rows: in many columns a
        row is far nearer to a mean and covariance that it had a part in than a fresh row is.
        """
        n = len(X)
        rows = (X - self.mean_) / self.scale_
        kept = (1 - self.shrinkage_) * n / (n - 1)  # covariance of the others: kept S - share x x^T + other variance
        share = kept / (n - 1)
        along, across = self._split(rows)
        variances = kept * (self.variances_ - self.other_variance_) / (1 - self.shrinkage_ or 1.0)
        squares = (along**2 / (variances + self.other_variance_)).sum(axis=1)
        squares += (across**2).sum(axis=1) / self.other_variance_
        distances: Floats = np.sqrt(squares / np.maximum(1 - share * squares, RIDGE)) * n / (n - 1)
        return distances

    def whitened(self, X: Floats) -> Floats:
        """Rows [n, F] turned and stretched so that the trusted covariance is the identity: |whitened| = -score."""
        along, across = self._split((X - self.mean_) / self.scale_)
        rows: Floats = (along / np.sqrt(self.variances_)) @ self.directions_ + across / np.sqrt(self.other_variance_)
        return rows

    def _split(self, rows: Floats) -> tuple[Floats, Floats]:
        """Coordinates along the principal directions [n, k], and what lies across them [n, F]."""
        along = rows @ self.directions_.T
        return along, rows - along @ self.directions_

    def _score_samples(self, X: Floats) -> Floats:
        along, across = self._split((X - self.mean_) / self.scale_)
        squares: Floats = (along**2 / self.variances_).sum(axis=1) + (across**2).sum(axis=1) / self.other_variance_
        return -np.sqrt(squares)
