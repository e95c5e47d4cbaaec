"""What the description of a row's activity costs in bits, in the code that is shortest for trusted rows."""

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from madpipe.detectors.detector import Detector, Floats


class Surprise(Detector):
    """score = - code length of a row's binary pattern b_j = [x_j > threshold], in bits, columns independent:

        bits = sum_j -b_j log2 q_j - (1 - b_j) log2(1 - q_j),    q_j = (#{trusted rows with b_j = 1} + 1/2) / (n + 1)

    The add-1/2 estimate is Krichevsky and Trofimov's (1981): within half a log2(n) bits of the best code for each
    column, and never infinite. The default threshold is the one above which a causal importance counts as alive. It
    sees which columns are active, neither how strongly nor which ones together.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "threshold": [Interval(Real, None, None, closed="neither")],
    }

    def __init__(self, *, threshold: float = 0.1, contamination: float = 0.05):
        self.threshold = threshold
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        usage = ((self.threshold < X).sum(axis=0) + 0.5) / (len(X) + 1)
        self.bits_active_, self.bits_silent_ = -np.log2(usage), -np.log2(1 - usage)

    def _score_samples(self, X: Floats) -> Floats:
        scores: Floats = -self._column_bits(X).sum(axis=1)
        return scores

    def column_bits(self, X: ArrayLike) -> Floats:
        """Each column's share of the code length, in bits [n, F]: which activity, or silence, was surprising."""
        check_is_fitted(self)
        return self._column_bits(self._check(X, reset=False))

    def _column_bits(self, X: Floats) -> Floats:
        return np.where(self.threshold < X, self.bits_active_, self.bits_silent_)
