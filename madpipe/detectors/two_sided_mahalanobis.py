"""Distances from the trusted mean that are unusual in either direction: too far, or too near."""

from collections.abc import Sequence

import numpy as np

from madpipe.detectors.detector import Floats
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.scaling import NORMAL_Q95
from madpipe.detectors.sites import SiteDetector

SMALLEST_DISTANCE, SMALLEST_SPREAD = 1e-9, 1e-3


class TwoSidedMahalanobis(SiteDetector):
    """score = -sqrt(sum_l z_l^2), z_l how far the logarithm of site l's Mahalanobis distance lies from its median:

        z = 1.645 (log d - median) / (q95 - median) above, 1.645 (log d - median) / (median - q5) below.

    A network trained to keep anomalous activations inside the clean cloud tends to put them nearer its middle than
    clean ones are. Median and quantiles are of trusted rows, each left out of the mean and covariance it is held
    against.
    """

    def __init__(self, *, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.sites = sites
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        groups = self._groups(X)
        self.of_sites_ = [MahalanobisDetector().fit(group) for group in groups]
        left_out = zip(self.of_sites_, groups, strict=True)
        logs = np.stack([_log(detector.leave_one_out_distances(group)) for detector, group in left_out], axis=1)
        low, self.centre_, high = np.quantile(logs, [0.05, 0.5, 0.95], axis=0)
        self.above_ = np.maximum(high - self.centre_, SMALLEST_SPREAD)
        self.below_ = np.maximum(self.centre_ - low, SMALLEST_SPREAD)

    def _score_samples(self, X: Floats) -> Floats:
        pairs = zip(self.of_sites_, self._groups(X), strict=True)
        away = np.stack([_log(-detector.score_checked(group)) for detector, group in pairs], axis=1) - self.centre_
        scores: Floats = -np.linalg.norm(NORMAL_Q95 * away / np.where(away > 0, self.above_, self.below_), axis=1)
        return scores


def _log(distances: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(distances, SMALLEST_DISTANCE))
    return logs
