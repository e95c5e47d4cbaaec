"""The mean of several non-negative statistics of one kind, each brought to one scale by its own trusted quantiles."""

import numpy as np

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.scaling import NORMAL_Q95

SMALLEST_MEDIAN = 1e-12
SMALLEST_SPREAD = (
    1e-3  # in log units: a statistic constant on trusted rows speaks once it moves by a tenth of a per cent
)


class StandardisedMean(Detector):
    """Columns are statistics s >= 0, higher = worse (divergences, residuals). score = -mean_j z_j, where

        t = log(s + median(s) / 1000)
        z = 1.645 (t - median(t)) / (q95(t) - median(t))

    with medians and 95 % quantiles of the fitted rows. The logarithm makes statistics of any magnitude comparable; its
    small term keeps rows with s near 0 from looking extraordinarily normal. Finite and strictly monotone for every
    finite s (below zero, where no statistic should be, the curve is its own point reflection). Fit it on rows that
    neither the decomposition was trained on nor are ranked against.
    """

    def __init__(self, *, contamination: float = 0.05):
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.median_ = np.maximum(np.quantile(X, 0.5, axis=0), SMALLEST_MEDIAN)
        t = self._transformed(X)
        self.centre_, upper = np.quantile(t, [0.5, 0.95], axis=0)
        self.spread_ = np.maximum(upper - self.centre_, SMALLEST_SPREAD)

    def _score_samples(self, X: Floats) -> Floats:
        scores: Floats = -(NORMAL_Q95 * (self._transformed(X) - self.centre_) / self.spread_).mean(axis=1)
        return scores

    def _transformed(self, X: Floats) -> Floats:
        log_softening = np.log(1e-3 * self.median_)
        with np.errstate(divide="ignore"):  # log(0) = -inf is right: logaddexp then gives the softening alone
            t = np.logaddexp(np.log(np.abs(X)), log_softening)
        return np.where(X < 0, 2 * log_softening - t, t)
