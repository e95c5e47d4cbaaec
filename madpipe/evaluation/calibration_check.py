"""One look at p-values of normal inputs: how many lie below each level, beside what honest ones would show."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.evaluation.intervals import realised_rate_interval, rejected_ranks
from madpipe.evaluation.validity import uniformity

LEVELS = (0.01, 0.05, 0.1, 0.5)


@dataclass(frozen=True)
class CalibrationCheck:
    """p_value: [m] of normal inputs, each ranked among `calibration_size` rows. Not for cross-fitted p-values."""

    p_value: NDArray[np.float64]
    calibration_size: int

    @classmethod
    def of(cls, p_value: ArrayLike, calibration_size: int) -> "CalibrationCheck":
        return cls(np.asarray(p_value, dtype=np.float64), calibration_size)

    def interval(self, level: float) -> tuple[float, float]:
        """Where the share of p <= level lies in 95 % of all cases, if p-values are honest."""
        return realised_rate_interval(level, self.calibration_size, len(self.p_value))

    def to_json(self) -> dict[str, Any]:
        """rates: (level, share of p <= level, lower and upper end of `interval`). uniformity_p_value: of both sides."""
        return {
            "rows": len(self.p_value),
            "calibration_size": self.calibration_size,
            "uniformity_p_value": uniformity(self.p_value, self.calibration_size).p_value,
            "rates": [
                {"level": level, "share": float(np.mean(self.p_value <= level)), "interval": self.interval(level)}
                for level in LEVELS
            ],
        }


def flagging_threshold(calibration: ArrayLike, alpha: float) -> float | None:
    """The anomaly score above which p <= alpha: the l-th largest of the calibration rows' own; None where no score is
    enough. l = floor(alpha (n + 1)).
    """
    scores = np.sort(np.asarray(calibration, dtype=np.float64))[::-1]
    ranks = rejected_ranks(alpha, len(scores))
    return float(scores[ranks - 1]) if ranks else None
