"""Are p-values honest? On fresh trusted data a share a of them, and no more, should lie at or below a."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import convolve
from scipy.stats import betabinom, ks_2samp

from madpipe.errors import TooFewRowsError
from madpipe.evaluation.intervals import rejected_ranks

EXACT_SIZE = 2000  # rows up to which the exact law of the Kolmogorov-Smirnov statistic is quick


@dataclass(frozen=True)
class PooledRate:
    """The realised false-positive rate over several runs, and what honest split-conformal p-values would have shown.

    interval: central 95 %. excess_p_value: the chance of at least this many false positives under honest p-values;
    small speaks for p-values that are too small. deficit_p_value: that of at most this many.
    """

    nominal: float
    realised: float
    interval: tuple[float, float]
    excess_p_value: float
    deficit_p_value: float
    test_size: int

    @property
    def two_sided_p_value(self) -> float:
        """Twice the smaller tail, at most 1."""
        return min(1.0, 2 * min(self.excess_p_value, self.deficit_p_value))

    @property
    def within(self) -> bool:
        return self.interval[0] <= self.realised <= self.interval[1]


def pooled_rate(
    normal_p_values: Sequence[ArrayLike], calibration_sizes: Sequence[int], alpha: float, confidence: float = 0.95
) -> PooledRate:
    """`pooled_counts` of p-values of normal test inputs alone, one array per run."""
    runs = [np.asarray(p, dtype=np.float64) for p in normal_p_values]
    assert len(runs) == len(calibration_sizes), (len(runs), len(calibration_sizes))
    counts = [int((p <= alpha).sum()) for p in runs]
    return pooled_counts(counts, [len(p) for p in runs], calibration_sizes, alpha, confidence)


def pooled_counts(
    false_positives: Sequence[int],
    test_sizes: Sequence[int],
    calibration_sizes: Sequence[int],
    alpha: float,
    confidence: float = 0.95,
) -> PooledRate:
    """Pool runs (seeds) that share neither calibration nor test rows: false positives among normal test inputs.

    Under honesty the number of false positives of a run with n calibration and m test rows is
    BetaBinomial(m, l, n + 1 - l), l = floor(alpha (n + 1)); the law of the sum is their convolution. Not for cross-fit
    p-values, whose bound is 2 alpha. Runs that share rows vary together: the interval is then too narrow.
    """
    test_size, count = sum(test_sizes), sum(false_positives)
    if test_size == 0:
        raise TooFewRowsError("no normal test inputs to judge p-values by")
    laws = [false_positive_law(alpha, n, m) for m, n in zip(test_sizes, calibration_sizes, strict=True)]
    law = np.maximum(reduce(convolve, laws), 0.0)
    below = np.cumsum(law / law.sum())
    tail = (1 - confidence) / 2
    low, high = np.searchsorted(below, [tail, 1 - tail])
    return PooledRate(
        nominal=alpha,
        realised=count / test_size,
        interval=(float(low) / test_size, float(high) / test_size),
        excess_p_value=float(min(1.0, max(0.0, 1.0 - below[count - 1]))) if count else 1.0,
        deficit_p_value=float(min(1.0, below[count])),
        test_size=test_size,
    )


def false_positive_law(alpha: float, calibration_size: int, test_size: int) -> NDArray[np.float64]:
    """Probabilities of 0, 1, ..., m false positives among m normal test rows, shape (m + 1,)."""
    ranks = rejected_ranks(alpha, calibration_size)
    counts = np.arange(test_size + 1)
    if ranks == 0:
        return (counts == 0).astype(np.float64)
    law: NDArray[np.float64] = betabinom.pmf(counts, test_size, ranks, calibration_size + 1 - ranks)
    return law


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p-values over tasks: those at or below a may be called so, with P(any wrong) <= a.

    Step down: the i-th smallest of m is multiplied by m - i + 1, and no smaller than the one before. Any dependence.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True)
class Uniformity:
    """The largest gap between the shares of test and of calibration rows, and the chance of one at least as large."""

    statistic: float
    p_value: float


def uniformity(
    normal_p_values: ArrayLike,
    calibration_size: int,
    alternative: Literal["two-sided", "too small", "too large"] = "two-sided",
) -> Uniformity:
    """Whether one run's split-conformal p-values of normal inputs look uniform at all levels at once.

    They are tied together by the calibration rows they share, so a one-sample test would be wrong. p (n + 1) - 1
    calibration rows lie at or below a test row: p-values tell how test and calibration rows interleave, and the
    two-sample Kolmogorov-Smirnov test of scipy is valid for that, exact without ties in the scores.
    """
    p = np.asarray(normal_p_values, dtype=np.float64)
    if len(p) == 0 or calibration_size < 1:
        raise TooFewRowsError(f"needs test and calibration rows, got {len(p)} and {calibration_size}")
    test = np.rint(p * (calibration_size + 1)) - 0.5  # just above the calibration row of that rank
    calibration = np.arange(1, calibration_size + 1)
    sides = {"two-sided": "two-sided", "too small": "greater", "too large": "less"}
    method = "exact" if max(len(p), calibration_size) <= EXACT_SIZE else "asymp"
    result = ks_2samp(test, calibration, alternative=sides[alternative], method=method)
    return Uniformity(float(result.statistic), float(result.pvalue))
