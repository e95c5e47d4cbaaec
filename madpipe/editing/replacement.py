"""Which features of an input a score hangs on: what it loses when one feature takes the values of trusted inputs.

Unlike a gradient this sees conjunctions and parities, whose every bit matters though none does by itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REFERENCES = 16  # trusted inputs whose values stand in
MOST_FEATURES = 2048  # of an input that is still asked feature by feature
ROWS = 4096  # scored at once


def lost_by_replacing(
    x: Tensor, references: Tensor, score: Callable[[Tensor], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """score(x) - mean over references of score(x with feature i of theirs), for each feature: x [1, ...] -> [...]."""
    flat, values = x.flatten(), references.flatten(1)
    count, features = values.shape
    lost = np.empty(features)
    here = float(score(x)[0])
    step = max(ROWS // count, 1)
    for start in range(0, features, step):
        chosen = torch.arange(start, min(start + step, features), device=x.device)
        rows = flat.expand(len(chosen) * count, -1).clone()
        rows[torch.arange(len(rows), device=x.device), chosen.repeat_interleave(count)] = (
            values[:, chosen].t().flatten()
        )
        scores = score(rows.view(-1, *x.shape[1:]))
        lost[start : start + len(chosen)] = here - scores.reshape(len(chosen), count).mean(1)
    return lost.reshape(tuple(x.shape[1:]))
