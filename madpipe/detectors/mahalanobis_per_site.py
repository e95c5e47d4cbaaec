"""Distance from the trusted mean at every layer, each in a covariance of its own."""

from collections.abc import Sequence

import numpy as np

from madpipe.detectors.detector import Floats
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.sites import SiteDetector


class MahalanobisPerSite(SiteDetector):
    """score = -sqrt(sum_l d_l^2), d_l the Mahalanobis distance of the columns of site l.

    The distance in a block-diagonal covariance, so layers weigh by their width. Lee, Lee, Lee, Shin (2018) weigh them
    by a regression on known anomalies, which nobody has here.
    """

    def __init__(self, *, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.sites = sites
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.of_sites_ = [MahalanobisDetector().fit(group) for group in self._groups(X)]

    def _score_samples(self, X: Floats) -> Floats:
        distances = [d.score_checked(group) for d, group in zip(self.of_sites_, self._groups(X), strict=True)]
        return -np.linalg.norm(distances, axis=0)
