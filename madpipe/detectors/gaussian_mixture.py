"""The density of trusted rows as a mixture of a few Gaussians."""

import warnings
from numbers import Integral
from typing import Any, ClassVar

from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils._param_validation import Interval, StrOptions

from madpipe.detectors.detector import Detector, Floats
from madpipe.detectors.scaling import column_scales

ROWS_PER_COMPONENT = 10
REGULARISATION = 1e-3  # of the standardised unit variance: no component may shrink onto a single row


class GaussianMixtureDetector(Detector):
    """score = log density, in nats, of standardised columns under 1, 2, 4, ... up to `max_components` Gaussians.

    Their number has the smallest Bayesian information criterion (Schwarz 1978), and at least ten rows each.
    `covariance` "diag" suits any number of columns, "full" wants several rows for each column.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "covariance": [StrOptions({"diag", "full"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        max_components: int = 8,
        covariance: str = "diag",
        random_state: int | None = 0,
        contamination: float = 0.05,
    ):
        self.max_components = max_components
        self.covariance = covariance
        self.random_state = random_state
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.mean_, self.scale_ = column_scales(X)
        rows = (X - self.mean_) / self.scale_
        largest = max(min(self.max_components, len(X) // ROWS_PER_COMPONENT), 1)
        counts = [2**power for power in range(largest.bit_length())]
        self.mixture_ = min((self._mixture(rows, count) for count in counts), key=lambda mixture: mixture.bic(rows))

    def _mixture(self, rows: Floats, count: int) -> GaussianMixture:
        mixture = GaussianMixture(
            count, covariance_type=self.covariance, reg_covar=REGULARISATION, random_state=self.random_state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # copied rows, or a slow last digit: still a density
            return mixture.fit(rows)

    def _score_samples(self, X: Floats) -> Floats:
        scores: Floats = self.mixture_.score_samples((X - self.mean_) / self.scale_)
        return scores
