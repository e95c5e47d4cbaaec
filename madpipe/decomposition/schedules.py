"""How coefficients move with training progress t in [0, 1]."""

import math


def cosine(t: float, peak: float, final_fraction: float, warmup: float = 0.0) -> float:
    """Linear rise over the first `warmup` of training, then a half cosine from `peak` to `peak * final_fraction`."""
    if t < warmup:
        return peak * t / warmup
    done = (t - warmup) / (1 - warmup)
    return peak * (final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def linear(t: float, start: float, end: float) -> float:
    """From `start` at t = 0 to `end` at t = 1."""
    return start + (end - start) * min(max(t, 0.0), 1.0)


def geometric(t: float, start: float, end: float) -> float:
    """From `start` at t = 0 to `end` at t = 1, both above 0, by equal factors."""
    return start * (end / start) ** min(max(t, 0.0), 1.0)
