"""The scores of trusted calibration rows, among which every new input is ranked."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from madpipe.reporting.drawing import PALETTE, finish, label_axes
from madpipe.reporting.figures import BINS, NORMAL


def calibration_figure(anomaly_score: ArrayLike, alpha: float = 0.01) -> Figure:
    """anomaly_score: [n], higher = worse. The line is where p <= alpha begins, where n is enough for such a p-value."""
    scores = np.sort(np.asarray(anomaly_score, dtype=np.float64))
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(scores, BINS, color=NORMAL, alpha=0.6, label=f"trusted calibration rows ({len(scores):,})")
    above = int(np.floor(alpha * (len(scores) + 1))) - 1  # how many of them a flagged input may have above it
    if above >= 0:
        axes.axvline(scores[-1 - above], color=PALETTE[5], linestyle="--", label=f"flagged: p ≤ {alpha:g}")
    label_axes(axes, "anomaly score (higher = worse)", "rows")
    return finish(figure, axes, "Calibration scores")
