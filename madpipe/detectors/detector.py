"""The base every detector stands on: a scikit-learn outlier estimator that only has to say how normal a row is."""

from abc import abstractmethod
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

Floats = NDArray[np.float64]


class Detector(OutlierMixin, BaseEstimator):
    """Subclasses list their parameters in `__init__`, `contamination` among them, and implement the two methods below.

    `score_samples` is higher for more normal rows and does not depend on the other rows of the batch. `offset_` is the
    `contamination` quantile of the scores of the fitted rows, so `predict` is a rough guide only: those rows were
    fitted on. For a threshold that keeps its promise rank held-out rows with `madpipe.detectors.conformal`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }
    offline: ClassVar[bool] = False  # whether `fit` also takes unlabelled untrusted rows
    contamination: float
    n_features_in_: int

    @abstractmethod
    def _fit(self, X: Floats) -> None:
        """Learn from trusted rows [n, F], finite float64, n >= 2."""

    @abstractmethod
    def _score_samples(self, X: Floats) -> Floats:
        """How normal each of the rows [n, F] is, shape (n,)."""

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn what is normal from trusted rows [n, F]; `y` is ignored. Raises ValueError on NaN or infinity."""
        rows = self._trusted(X)
        self._fit(rows)
        return self._with_offset(rows)

    def _trusted(self, X: ArrayLike) -> Floats:
        """Parameters and trusted rows checked, before anything is learned."""
        self._validate_params()
        return self._check(X, reset=True)

    def _with_offset(self, rows: Floats) -> Self:
        self.offset_ = float(np.quantile(self._score_samples(rows), self.contamination))
        return self

    def score_samples(self, X: ArrayLike) -> Floats:
        """Higher = more normal, shape (n,)."""
        check_is_fitted(self)
        return self._score_samples(self._check(X, reset=False))

    def score_checked(self, X: Floats) -> Floats:
        """`score_samples` of rows known to be finite float64 [n, n_features_in_]: for streams of small batches."""
        return self._score_samples(X)

    def decision_function(self, X: ArrayLike) -> Floats:
        """`score_samples` less `offset_`: negative = anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """1 for normal, -1 for anomalous rows."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _check(self, X: ArrayLike, *, reset: bool) -> Floats:
        rows: Floats = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float64,
            ensure_min_samples=2 if reset else 1,
        )
        return rows


class OfflineDetector(Detector):
    """A detector that also learns from unlabelled, untrusted rows, which may hold anomalies: `fit(X, untrusted=rows)`.

    Subclasses implement `_fit_mixed` in place of `_fit`. Without untrusted rows the trusted ones stand in for them, and
    what is left is an ordinary online detector. Rows to be ranked may not be among the untrusted ones if p-values are
    to be honest: a calibration row and a new one must have been treated alike.
    """

    offline = True

    @abstractmethod
    def _fit_mixed(self, X: Floats, untrusted: Floats) -> None:
        """Learn from trusted rows [n, F] and untrusted rows [m, F]."""

    def fit(self, X: ArrayLike, y: Any = None, untrusted: ArrayLike | None = None) -> Self:
        """Learn from trusted rows [n, F] and unlabelled untrusted rows [m, F], m >= 1; `y` is ignored."""
        rows = self._trusted(X)
        self._fit_mixed(rows, rows if untrusted is None else self._check(untrusted, reset=False))
        return self._with_offset(rows)

    def _fit(self, X: Floats) -> None:
        self._fit_mixed(X, X)
