"""How well anomaly scores separate, and how p-values do at their nominal rates."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from madpipe.errors import NonFiniteError, ShapeError, TooFewRowsError
from madpipe.evaluation.intervals import realised_rate_interval

NOMINAL_RATES = {"1": 0.01, "5": 0.05}


def auroc(anomaly_score: ArrayLike, is_anomalous: ArrayLike) -> float:
    """Probability that an anomaly scores above a normal input, ties counting half. anomaly_score: higher = worse."""
    scores, labels = _checked(anomaly_score, is_anomalous)
    return float(roc_auc_score(labels, scores))


def average_precision(anomaly_score: ArrayLike, is_anomalous: ArrayLike) -> float:
    """Mean precision over the recall steps, anomalies positive. Depends on their share: compare within one test set."""
    scores, labels = _checked(anomaly_score, is_anomalous)
    return float(average_precision_score(labels, scores))


def tpr_at(anomaly_score: ArrayLike, is_anomalous: ArrayLike, fpr: float) -> float:
    """Share of anomalies strictly above the (1 - fpr) quantile of the normal inputs' scores (an oracle's threshold)."""
    scores, labels = _checked(anomaly_score, is_anomalous)
    threshold = np.quantile(scores[~labels], 1 - fpr)
    return float(np.mean(scores[labels] > threshold))


def operating_metrics(
    anomaly_score: ArrayLike, p_value: ArrayLike, is_anomalous: ArrayLike, calibration_size: int
) -> dict[str, float | tuple[float, float]]:
    """Separation (auroc, average_precision, tpr_at_1, tpr_at_5) and what p <= 0.01 and p <= 0.05 did on this test set.

    `fpr_at_nominal_k` is the share of normal inputs with p <= k %, `recall_at_nominal_k` that of anomalies.
    `fpr_at_nominal_k_interval` is the central 95 % interval of what a *valid* split-conformal detector shows with this
    many calibration rows n and normal test rows m: the number of false positives is BetaBinomial(m, l, n + 1 - l) with
    l = floor(alpha (n + 1)). It is no confidence interval around the realised rate; a rate outside it speaks against
    validity.
    """
    scores, labels = _checked(anomaly_score, is_anomalous)
    p = np.asarray(p_value, dtype=np.float64)
    assert p.shape == scores.shape, (p.shape, scores.shape)
    metrics: dict[str, float | tuple[float, float]] = {
        "auroc": auroc(scores, labels),
        "average_precision": average_precision(scores, labels),
    }
    for name, alpha in NOMINAL_RATES.items():
        metrics[f"tpr_at_{name}"] = tpr_at(scores, labels, alpha)
        metrics[f"fpr_at_nominal_{name}"] = float(np.mean(p[~labels] <= alpha))
        metrics[f"fpr_at_nominal_{name}_interval"] = realised_rate_interval(
            alpha, calibration_size, int((~labels).sum())
        )
        metrics[f"recall_at_nominal_{name}"] = float(np.mean(p[labels] <= alpha))
    return metrics


def _checked(anomaly_score: ArrayLike, is_anomalous: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, labels = np.asarray(anomaly_score, dtype=np.float64), np.asarray(is_anomalous, dtype=bool)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ShapeError(f"scores {scores.shape} and labels {labels.shape} must be one number each per input")
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"anomaly score of row {int(np.argmin(np.isfinite(scores)))} is not finite")
    if labels.all() or not labels.any():
        raise TooFewRowsError(
            f"metrics need normal and anomalous inputs, got {int(labels.sum())} anomalies of {len(labels)}"
        )
    return scores, labels
