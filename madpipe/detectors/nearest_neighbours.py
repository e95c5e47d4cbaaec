"""Distance to the nearest trusted rows."""

from numbers import Integral
from typing import Any, ClassVar

from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.neighbours import nearest_rows
from madpipe.detectors.scaling import column_scales


class NearestNeighboursDetector(Detector):
    """score = - mean Euclidean distance to the `k` nearest trusted rows, columns standardised.

    Keeps the trusted rows, standardised, [n, F]. Ramaswamy, Rastogi, Shim (2000); Angiulli and Pizzuti (2002) for the
    mean; Sun et al. (2022) on deep features, who normalise rows where we standardise columns.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "k": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, k: int = 5, contamination: float = 0.05):
        self.k = k
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.mean_, self.scale_ = column_scales(X)
        self.trusted_ = (X - self.mean_) / self.scale_

    def _score_samples(self, X: Floats) -> Floats:
        rows = (X - self.mean_) / self.scale_
        _, distances = nearest_rows(self.trusted_, rows, min(self.k, len(self.trusted_)))
        scores: Floats = -distances.mean(axis=1)
        return scores
