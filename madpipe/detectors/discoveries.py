"""False-discovery control over a batch of conformal p-values (Benjamini and Hochberg 1995).

p-values that share their calibration rows are positively dependent in the way that the procedure allows, so of the
flagged inputs a share of at most q is normal on average (Bates, Candes, Lei, Romano, Sesia 2023, theorem 2). That holds
for one calibration that nothing was fitted on, not for cross-fitted p-values.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control


def adjusted_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    """[m] -> [m]: adjusted <= q are the discoveries at false-discovery rate q, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    return np.asarray(false_discovery_control(p, method="bh"), dtype=np.float64) if p.size else p


def fewest_discoveries(q: float, inputs: int, calibration_size: int) -> int:
    """How many of `inputs` must have the smallest p-value 1 / (n + 1) before any can be flagged at rate q.

    k of them are flagged where k q / m >= 1 / (n + 1). More than `inputs` means that none ever can.
    """
    return max(1, math.ceil(inputs / (q * (calibration_size + 1)) - 1e-9))
