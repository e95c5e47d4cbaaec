"""The combiner: one continuous score from several members' anomaly scores, led by the most alarmed member."""

import numpy as np

from madpipe.detectors.detector import Detector, Floats

TAIL = 0.1  # share of fitted rows whose excesses tell how fast a member's tail falls
TAIL_SURPRISE = -np.log(TAIL)
RELATIVE_SPREAD, SMALLEST_SPREAD = 1e-6, 1e-9  # 1e-6 of the threshold is about the noise of a float32 score
LARGEST = 1e300


class SoftMaximum(Detector):
    """Columns are member anomaly scores x, **higher = worse**. score = -log(mean_j exp(s_j)), where s is the surprise

        s = -log P(X > x) = log 10 + (x - u) / b    above u, the 90 % quantile of the fitted rows,
        s = log 10 * exp((x - u) / (b log 10))      below it, with the same slope at u

    in nats, and b the mean excess over u: peaks over a threshold with an exponential tail (Pickands 1975, shape 0). A
    nat means the same for every member, whatever the shape of its bulk, so that a member that sees nothing costs the
    others little; far from the data the score follows the largest s without saturating. Fit it on rows that neither the
    members were fitted on nor are ranked against.
    """

    def __init__(self, *, contamination: float = 0.05):
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.threshold_ = 2 * np.quantile(X / 2, 1 - TAIL, axis=0)  # halved: the interpolation cannot overflow
        excess = np.maximum(X / 2 - self.threshold_ / 2, 0)
        above = np.maximum((excess > 0).sum(0), 1)
        floor = np.maximum(RELATIVE_SPREAD * np.abs(self.threshold_), SMALLEST_SPREAD)
        self.spread_ = np.maximum((excess / above).sum(0), floor / 2)

    def _score_samples(self, X: Floats) -> Floats:
        with np.errstate(over="ignore"):  # beyond 1e300 an excess is as good as 1e300
            excess = np.clip((X / 2 - self.threshold_ / 2) / self.spread_, -LARGEST, LARGEST)
        below = TAIL_SURPRISE * np.exp(np.minimum(excess, 0) / TAIL_SURPRISE)
        surprise = np.where(excess > 0, TAIL_SURPRISE + excess, below)
        scores: Floats = np.log(X.shape[1]) - np.logaddexp.reduce(surprise, axis=1)
        return scores
