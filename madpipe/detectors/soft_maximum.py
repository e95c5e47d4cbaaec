"""The combiner: one continuous score from several members' anomaly scores, led by the most alarmed member."""

import numpy as np

from madpipe.detectors.detector import Detector, Floats

NORMAL_Q95 = 1.645  # the 95 % quantile of a standard normal: one unit of z is about one standard deviation
RELATIVE_SPREAD, SMALLEST_SPREAD = 1e-6, 1e-9  # 1e-6 of the median is about the noise of a float32 score
LARGEST_Z = 1e300


class SoftMaximum(Detector):
    """Columns are member anomaly scores, **higher = worse**. score = -log(mean_j exp(z_j)), where

        z = 1.645 (x - median(x)) / (q95(x) - median(x))

    with medians and 95 % quantiles of the fitted rows, and the difference floored where it vanishes. A member that sees
    nothing cannot outvote one that is alarmed, and far from the data the score follows the largest z without
    saturating. Fit it on rows that neither the members were fitted on nor are ranked against.
    """

    def __init__(self, *, contamination: float = 0.05):
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.centre_, upper = 2 * np.quantile(X / 2, [0.5, 0.95], axis=0)  # halved: the interpolation cannot overflow
        floor = np.maximum(RELATIVE_SPREAD * np.abs(self.centre_), SMALLEST_SPREAD)
        self.spread_ = np.maximum(upper / 2 - self.centre_ / 2, floor / 2)

    def _score_samples(self, X: Floats) -> Floats:
        with np.errstate(over="ignore"):  # beyond 1e300 a z is as good as 1e300
            z = np.clip(NORMAL_Q95 * ((X / 2 - self.centre_ / 2) / self.spread_), -LARGEST_Z, LARGEST_Z)
        scores: Floats = np.log(X.shape[1]) - np.logaddexp.reduce(z, axis=1)
        return scores
