"""Columns brought to one scale: centred on the trusted mean, divided by the trusted standard deviation."""

import numpy as np

from madpipe.detectors.detector import Floats

NORMAL_Q95 = 1.645  # the 95 % quantile of a standard normal: one unit of z is about one standard deviation


def column_scales(X: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each column of [n, F], shapes (F,); never a zero to divide by.

    A column that is constant on trusted rows borrows the median spread of the columns that vary (1 when none does): a
    departure there counts as much as one elsewhere, neither ignored nor infinite.
    """
    mean, spread = X.mean(axis=0), X.std(axis=0)
    varies = spread > 1e-6 * np.abs(mean)  # below that it is rounding noise of float32 values
    borrowed = float(np.median(spread[varies])) if varies.any() else 1.0
    return mean, np.where(varies, spread, borrowed)
