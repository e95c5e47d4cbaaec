"""Honest p-values: where a frozen score ranks among trusted rows that nothing was fitted on."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.errors import ConfigError, NonFiniteError, TooFewRowsError

Floats = NDArray[np.float64]
DIGITS = 6  # scores of one input in different batches agree to 1e-5 relative or better; ranks must agree exactly
SMALLEST_EXPONENT = -300  # powers of ten below this are no longer ordinary floats


def round_significant(scores: ArrayLike, digits: int = DIGITS) -> Floats:
    """Each score rounded to `digits` significant digits, monotonically; zero and infinite values stay."""
    values = np.asarray(scores, dtype=np.float64)
    ordinary = np.isfinite(values) & (values != 0)
    safe = np.where(ordinary, values, 1.0)
    exponent = np.maximum(np.floor(np.log10(np.abs(safe))), SMALLEST_EXPONENT)
    digits_kept = np.rint(safe / 10.0**exponent * 10.0 ** (digits - 1))
    carried = (
        np.abs(digits_kept) >= 10.0**digits
    )  # 9.9999999 became 10.0000: one way of writing it, so that equals are equal
    digits_kept, exponent = np.where(carried, digits_kept / 10, digits_kept), exponent + carried
    return np.where(ordinary, digits_kept / 10.0 ** (digits - 1) * 10.0**exponent, values)


def p_values(scores: ArrayLike, calibration: ArrayLike) -> Floats:
    """(1 + #{calibration <= score}) / (n + 1): scores are **low for anomalies**, rounded to 6 significant digits.

    scores: any shape; calibration: shape (n,), from rows exchangeable with normal test rows and disjoint from
    everything the score was fitted on. Then P(p <= a) <= a for a normal row, whatever the score and for every n; ties
    count against the input's being flagged. Vovk, Gammerman, Shafer (2005), prop. 2.4; Laxhammar (2014) for anomalies.
    Raises TooFewRowsError without calibration rows, NonFiniteError on a NaN.
    """
    return cross_p_values(np.asarray(scores, dtype=np.float64)[None], [calibration])


def cross_p_values(scores: ArrayLike, fold_calibrations: Sequence[ArrayLike]) -> Floats:
    """(1 + sum_k #{calibration_k <= scores[k]}) / (N + 1): every trusted row is ranked by the fold that did not see it.

    scores: [K, n], the n inputs scored by each of the K folds' detectors; fold_calibrations: K arrays, the held-out
    rows of each fold scored by that fold; N rows in all. The guarantee is weaker than that of one split: P(p <= a) <=
    2a (+ a term of order K / N); in practice close to a. Vovk (2015), cross-conformal predictors; Barber, Candes,
    Ramdas, Tibshirani (2021), theorem 4 (CV+).
    """
    values = round_significant(scores)
    folds = [np.sort(round_significant(fold).ravel()) for fold in fold_calibrations]
    assert len(values) == len(folds), (len(values), len(folds))
    row_count = sum(len(fold) for fold in folds)
    if row_count == 0:
        raise TooFewRowsError("p-values need at least one calibration score, got none")
    if np.isnan(values).any() or any(np.isnan(fold).any() for fold in folds):
        raise NonFiniteError("a score is NaN and has no rank; look for overflow in the detector that gave it")
    counts = sum(np.searchsorted(fold, row, side="right") for fold, row in zip(folds, values, strict=True))
    return (1.0 + np.asarray(counts)) / (row_count + 1.0)


def minimum_rows(alpha: float) -> int:
    """The fewest calibration rows with which p <= alpha is possible: 1 / (n + 1) <= alpha. 99 for 0.01, 19 for 0.05."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is a probability between 0 and 1, got {alpha}")
    rows = math.ceil(1 / alpha) - 1
    return (
        rows - 1 if rows > 1 and 1 / rows <= alpha else rows
    )  # 1 / alpha may be rounded up to just above a whole number
