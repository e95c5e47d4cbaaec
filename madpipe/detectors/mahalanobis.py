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

    def _score_samples(self, X: Floats) -> Floats:
        rows = (X - self.mean_) / self.scale_
        along = rows @ self.directions_.T
        across = rows - along @ self.directions_
        squares: Floats = (along**2 / self.variances_).sum(axis=1) + (across**2).sum(axis=1) / self.other_variance_
        return -np.sqrt(squares)
