"""The support of the trusted rows, found by a one-class support vector machine."""

from numbers import Real
from typing import Any, ClassVar

from scipy.special import logsumexp
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.svm import OneClassSVM
from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.scaling import column_scales


class OneClassSVMDetector(Detector):
    """score = log sum_i a_i exp(-|x - v_i|^2 / F): columns standardised, v_i support vectors, a_i > 0 their weights.

    Scholkopf et al. (2001), eq. 3.2, with scikit-learn's gamma="scale". Our logarithm keeps the order and, unlike the
    sum itself, does not come to rest at 0 far from the data. `nu` bounds the share of trusted rows left outside.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "nu": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(self, *, nu: float = 0.5, contamination: float = 0.05):
        self.nu = nu
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.mean_, self.scale_ = column_scales(X)
        rows = (X - self.mean_) / self.scale_
        machine = OneClassSVM(kernel="rbf", gamma=1 / X.shape[1], nu=self.nu).fit(rows)
        self.support_vectors_ = machine.support_vectors_
        self.coefficients_ = machine.dual_coef_[0]

    def _score_samples(self, X: Floats) -> Floats:
        rows = (X - self.mean_) / self.scale_
        squares = euclidean_distances(rows, self.support_vectors_, squared=True)
        scores: Floats = logsumexp(-squares / X.shape[1], axis=1, b=self.coefficients_)
        return scores
