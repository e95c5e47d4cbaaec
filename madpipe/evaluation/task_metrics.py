"""One detector on one benchmark task: its metrics, those on agree rows, and false positives by kind of normal input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.evaluation.intervals import auroc_interval
from madpipe.evaluation.metrics import NOMINAL_RATES, operating_metrics

LIKE_TRUSTED = "like_trusted"
ALL = "all"


@dataclass(frozen=True)
class TestRows:
    """m labelled test rows, behind which scores may have those of agree rows.

    is_anomalous: bool [m]. subsets: named bool [m], of normal rows and others. shifted: names of those subsets whose
    normal rows trusted data hold in another share, or not at all, so that p-values promise nothing on them.
    """

    __test__ = False  # for pytest, which takes the name for that of a test

    is_anomalous: NDArray[np.bool_]
    subsets: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    shifted: Sequence[str] = ()

    def auroc_interval(self, score: NDArray[np.float64]) -> tuple[float, float]:
        """Bootstrap interval over the test rows."""
        return auroc_interval(score[: len(self.is_anomalous)], self.is_anomalous)

    def normal_rows(self) -> dict[str, NDArray[np.bool_]]:
        """Kinds of normal rows, bool [m] each: all, the named ones, and where some are shifted, the others."""
        normal = ~self.is_anomalous
        kinds = {ALL: normal} | {name: mask & normal for name, mask in self.subsets.items()}
        shifted = [kinds[name] for name in self.shifted if name in kinds]
        if shifted:
            kinds[LIKE_TRUSTED] = normal & ~np.any(shifted, axis=0)
        return {name: mask for name, mask in kinds.items() if mask.any() or name == LIKE_TRUSTED}


def task_metrics(score: ArrayLike, p_value: ArrayLike, rows: TestRows, calibration_size: int) -> dict[str, Any]:
    """`operating_metrics` of the test rows, with `false_positives`, counts by kind of normal row, and `agree`.

    score, p_value: [m + a], of the m test rows and then of a agree rows. `agree`: the metrics with these as the only
    positives; absent where there are none.
    """
    scores, p = np.asarray(score, dtype=np.float64), np.asarray(p_value, dtype=np.float64)
    m, normal = len(rows.is_anomalous), ~rows.is_anomalous
    metrics: dict[str, Any] = operating_metrics(scores[:m], p[:m], rows.is_anomalous, calibration_size)
    metrics["false_positives"] = {
        name: {"rows": int(mask.sum())}
        | {level: int((p[:m][mask] <= alpha).sum()) for level, alpha in NOMINAL_RATES.items()}
        for name, mask in rows.normal_rows().items()
    }
    if len(scores) > m:
        labels = np.arange(normal.sum() + len(scores) - m) >= normal.sum()
        s, q = (np.concatenate([values[:m][normal], values[m:]]) for values in (scores, p))
        metrics["agree"] = operating_metrics(s, q, labels, calibration_size) | {"rows": int(labels.sum())}
    return metrics
