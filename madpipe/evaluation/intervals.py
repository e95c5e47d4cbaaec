"""How far a number may lie from what it estimates: resampling for AUROC, an exact law for a realised rate."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom

from madpipe.errors import ConfigError, TooFewRowsError

FEWEST_SEEDS = 3  # of two values a bootstrap knows three means


def rejected_ranks(alpha: float, calibration_size: int) -> int:
    """l = floor(alpha (n + 1)): how many of the n + 1 ranks give p <= alpha."""
    return int(np.floor(alpha * (calibration_size + 1) + 1e-9))  # 0.29 * 100 is 28.999999999999996


def realised_rate_interval(
    alpha: float, calibration_size: int, test_size: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Central interval of the realised false-positive rate of a *valid* split-conformal detector.

    With n calibration and m normal test rows, all exchangeable and without ties, the number of test rows with p <=
    alpha is BetaBinomial(m, l, n + 1 - l), l = floor(alpha (n + 1)): given the calibration rows it is binomial, and its
    rate is the l-th of n uniform order statistics, Beta(l, n + 1 - l). Both sizes widen it. Vovk (2012), Bates et al.
    (2023).
    """
    if not 0 < alpha < 1 or not 0 < confidence < 1:
        raise ConfigError(f"alpha and confidence lie between 0 and 1, got {alpha} and {confidence}")
    if calibration_size < 1 or test_size < 1:
        raise TooFewRowsError(f"needs calibration and normal test rows, got {calibration_size} and {test_size}")
    ranks = rejected_ranks(alpha, calibration_size)
    if ranks == 0:
        return 0.0, 0.0
    law = betabinom(test_size, ranks, calibration_size + 1 - ranks)
    tail = (1 - confidence) / 2
    return float(law.ppf(tail)) / test_size, float(law.ppf(1 - tail)) / test_size


def auroc_interval(
    anomaly_score: ArrayLike,
    is_anomalous: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of AUROC; anomalies and normal inputs are resampled apart, so their numbers stay.

    It covers the choice of test inputs, not the seed of the fit. Efron and Tibshirani (1993), chapter 13.
    """
    scores, labels = np.asarray(anomaly_score, dtype=np.float64), np.asarray(is_anomalous, dtype=bool)
    if labels.all() or not labels.any():
        raise TooFewRowsError(
            f"AUROC needs normal and anomalous inputs, got {int(labels.sum())} anomalies of {len(labels)}"
        )
    positive, negative = scores[labels], scores[~labels]
    generator = np.random.default_rng(seed)
    values = [
        pair_share(generator.choice(positive, len(positive)), generator.choice(negative, len(negative)))
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_interval(
    first: ArrayLike,
    second: ArrayLike,
    is_anomalous: ArrayLike,
    metric: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `metric` of the second scores minus that of the first, on the same inputs.

    `metric(anomalies' scores, normal inputs' scores)`. Inputs are resampled with both their scores, which is what makes
    it narrower than two intervals side by side; anomalies and normal inputs apart. As in `auroc_interval` it covers the
    choice of test inputs alone. Efron and Tibshirani (1993), chapters 10 and 13.
    """
    labels = np.asarray(is_anomalous, dtype=bool)
    if labels.all() or not labels.any():
        raise TooFewRowsError(f"needs normal and anomalous inputs, got {int(labels.sum())} anomalies of {len(labels)}")
    both = np.asarray([first, second], dtype=np.float64)
    positive, negative = both[:, labels], both[:, ~labels]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        p = positive[:, generator.integers(positive.shape[1], size=positive.shape[1])]
        n = negative[:, generator.integers(negative.shape[1], size=negative.shape[1])]
        values.append(metric(p[1], n[1]) - metric(p[0], n[0]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def mean_interval(
    groups: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of the groups' means, values (seeds of a task) resampled within each.

    It covers the seeds and not the choice of groups. None where a group has fewer than FEWEST_SEEDS values. With so few
    values it is hardly narrower than from the smallest to the largest. Efron and Tibshirani (1993), chapter 13.
    """
    if not groups or min(len(group) for group in groups) < FEWEST_SEEDS:
        return None
    generator = np.random.default_rng(seed)
    means = [generator.choice(np.asarray(group), (resamples, len(group))).mean(axis=1) for group in groups]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.mean(means, axis=0), [tail, 1 - tail])
    return float(low), float(high)


def pair_share(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """AUROC of scores in two arrays: the share of pairs in order, ties counting half."""
    ordered = np.sort(negative)
    below, at_most = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + at_most).mean()) / (2 * len(negative))
