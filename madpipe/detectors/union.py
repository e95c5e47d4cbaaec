"""Several scores as one: a row is as strange as the score that finds it strangest, with an honest p-value."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.detectors.conformal import round_significant
from madpipe.detectors.detector import Floats
from madpipe.detectors.scaling import NORMAL_Q95
from madpipe.errors import NonFiniteError

LARGEST_Z = 1e150
LARGEST_BLOCK = 2**22  # comparisons held at once


def union_of_scores(reference: ArrayLike, calibration: ArrayLike, new: ArrayLike) -> tuple[Floats, Floats]:
    """Anomaly scores and p-values [N] of the minimum p-value over C scores, **higher = worse**: [C, m], [C, n], [C, N].

    Each score gives a row a conformal p-value; the smallest is the row's, and where two rows tie, so does the larger
    standardised score among those that gave it, z = 1.645 (s - median) / (q95 - median) over `reference` rows (0 where
    they do not differ). The smallest of C p-values is no p-value itself, so it is ranked once more. That second
    rank is exact (full conformal): the calibration rows' own smallest p-values are taken among calibration rows *and*
    the new one, so that all n + 1 rows are treated alike, and P(p <= a) <= a for a normal row whatever C is. The
    `reference` rows are others than those the scores were fitted on or are ranked against. Anomaly scores are
    - (n + 1) p_min, plus z squeezed into (0, 1). Vovk, Gammerman, Shafer (2005), chapter 2.
    """
    z_of_calibration, z_of_new = _standardised(reference, calibration), _standardised(reference, new)
    ranked, scores = round_significant(calibration), round_significant(new)
    if np.isnan(ranked).any() or np.isnan(scores).any():
        raise NonFiniteError("a score is NaN and has no rank; look for overflow in the detector that gave it")
    among = np.stack([_at_least(row, row) for row in ranked])  # each calibration row counts itself
    size = max(LARGEST_BLOCK // ranked.size, 1)
    parts = [
        _union(ranked, among, z_of_calibration, scores[:, i : i + size], z_of_new[:, i : i + size])
        for i in range(0, scores.shape[1], size)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _union(
    ranked: Floats, among: NDArray[np.int64], z_ranked: Floats, scores: Floats, z_scores: Floats
) -> tuple[Floats, Floats]:
    own = np.stack([1 + _at_least(a, b) for a, b in zip(ranked, scores, strict=True)])
    count, z = _strangest(own[:, :, None], z_scores[:, :, None])
    with_new = among[:, None, :] + (scores[:, :, None] >= ranked[:, None, :])
    counts, z_of_counts = _strangest(with_new, z_ranked[:, None, :])
    as_strange = (counts < count) | ((counts == count) & (z_of_counts >= z))
    p_values = (1 + as_strange.sum(axis=1)) / (ranked.shape[1] + 1)
    return (-count + 0.5 + 0.5 * z / (1 + np.abs(z)))[:, 0], p_values


def _at_least(ranked: Floats, scores: Floats) -> NDArray[np.int64]:
    """How many of `ranked` [n] are at least each of `scores` [N]."""
    return len(ranked) - np.searchsorted(np.sort(ranked), scores, side="left")


def _strangest(counts: NDArray[np.int64], z: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Smallest count over scores, and the largest z of those that have it: [C, N, n] -> [N, n] each."""
    smallest = counts.min(axis=0)
    return smallest, np.where(counts == smallest, z, -np.inf).max(axis=0)


def _standardised(reference: ArrayLike, scores: ArrayLike) -> Floats:
    median, upper = np.quantile(np.asarray(reference, dtype=np.float64), [0.5, 0.95], axis=1)[:, :, None]
    spread = upper - median
    from_median = np.clip(NORMAL_Q95 * (round_significant(scores) - median), -LARGEST_Z, LARGEST_Z)
    z = np.divide(from_median, spread, out=np.zeros(np.shape(scores)), where=spread > 0)
    return round_significant(np.clip(z, -LARGEST_Z, LARGEST_Z))
