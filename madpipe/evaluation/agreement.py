"""Two pipelines on the same inputs: do they flag and rank alike, where do they differ, and which separates better?"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ConstantInputWarning, spearmanr

from madpipe.evaluation.intervals import pair_share, paired_interval
from madpipe.evaluation.metrics import NOMINAL_RATES, auroc, tpr_at

Floats = NDArray[np.float64]


def flag_agreement(first: ArrayLike, second: ArrayLike) -> dict[str, int | float]:
    """How many inputs both flag, only the first, only the second, neither; `agreement` is the share treated alike."""
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    counts = {
        "both": int((a & b).sum()),
        "only_first": int((a & ~b).sum()),
        "only_second": int((~a & b).sum()),
        "neither": int((~a & ~b).sum()),
    }
    return counts | {"agreement": float((a == b).mean())}


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's, of two anomaly scores of each input: 1 where they order all inputs alike; NaN where one is constant.

    Spearman (1904).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(first, second).statistic)


def most_different(first: ArrayLike, second: ArrayLike, count: int) -> NDArray[np.intp]:
    """The rows whose p-values lie furthest apart on a logarithmic scale, furthest first; equal ones are left out."""
    distance = np.abs(np.log(np.asarray(first, dtype=np.float64)) - np.log(np.asarray(second, dtype=np.float64)))
    order = np.argsort(-distance, kind="stable")[:count]
    return order[distance[order] > 0]


def separation(first: Floats, second: Floats, is_anomalous: NDArray[np.bool_]) -> dict[str, Any]:
    """AUROC and TPR at 1 % and 5 % FPR of both anomaly scores, and second minus first with its paired 95 % interval."""
    measures: dict[str, Any] = {"auroc": (auroc, pair_share)}
    for name, rate in NOMINAL_RATES.items():
        measures[f"tpr_at_{name}"] = (
            lambda scores, labels, rate=rate: tpr_at(scores, labels, rate),
            lambda positive, negative, rate=rate: float(np.mean(positive > np.quantile(negative, 1 - rate))),
        )
    result = {}
    for name, (of_scores, of_kinds) in measures.items():
        values = [of_scores(scores, is_anomalous) for scores in (first, second)]
        interval = paired_interval(first, second, is_anomalous, of_kinds)
        difference = {"difference": values[1] - values[0], "difference_interval": interval}
        result[name] = {"first": values[0], "second": values[1], **difference}
    return result
