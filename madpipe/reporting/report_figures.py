"""Figures of a report, each no wider than two beside each other on a screen."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from madpipe.evaluation.calibration_check import CalibrationCheck
from madpipe.reporting.drawing import LEGEND_SIZE, PALETTE, label_axes, plain
from madpipe.reporting.figures import draw_roc, draw_score_histograms, show_low_rates

SIZE = (5.8, 4.4)  # inches
BAND_POINTS = 60


def score_distribution_figure(
    groups: tuple[tuple[str, ArrayLike], tuple[str, ArrayLike]], *, threshold: float | None, alpha: float | None
) -> Figure:
    """Anomaly scores of two named groups; the first, which is taken for normal, sets the width."""
    (first, usual), (second, others) = groups
    scores = [np.asarray(values, dtype=np.float64) for values in (usual, others)]
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    second_group = np.arange(sum(map(len, scores))) >= len(scores[0])
    names = (plain(first), plain(second))
    draw_score_histograms(axes, np.concatenate(scores), second_group, threshold=threshold, alpha=alpha, names=names)
    axes.legend(loc="upper left", fontsize=LEGEND_SIZE)
    return figure


def p_value_figure(checks: Mapping[str, CalibrationCheck]) -> Figure:
    """Share of rows with a p-value up to each level, in the band that honest p-values keep to in 95 % of cases."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    levels = np.linspace(1 / BAND_POINTS, 1 - 1 / BAND_POINTS, BAND_POINTS - 1)
    for (name, check), colour in zip(checks.items(), cycle((PALETTE[4], PALETTE[5], PALETTE[2]))):
        low, high = np.array([check.interval(float(level)) for level in levels]).T
        axes.fill_between(levels, low, high, color=colour, alpha=0.15, linewidth=0)
        p = np.sort(check.p_value)
        shares = np.arange(len(p) + 1) / len(p)
        axes.step([0, *p, 1], [*shares, 1], where="post", color=colour, label=f"{plain(name)} ({len(p):,})")
    axes.plot([0, 1], [0, 1], ":", color="black", linewidth=1.2, label="honest p-values, on average")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    label_axes(axes, "level a", "share of rows with p ≤ a")
    axes.legend(loc="upper left", fontsize=LEGEND_SIZE)
    return figure


def roc_figures(
    anomaly_score: ArrayLike, is_anomalous: ArrayLike, controls: Mapping[str, ArrayLike]
) -> Sequence[Figure]:
    """ROC curves on a linear and on a logarithmic axis, the AUROC in the legend of the first."""
    labels = np.asarray(is_anomalous, dtype=bool)
    figures = [Figure(figsize=SIZE, layout="constrained") for _ in range(2)]
    for figure in figures:
        draw_roc(figure.subplots(), anomaly_score, labels, members={}, controls=controls)
    linear, low_rates = (figure.axes[0] for figure in figures)
    lines, names = linear.get_legend_handles_labels()
    order = [len(lines) - 1, *range(len(lines) - 1)]  # the pipeline, drawn last to lie on top, is named first
    linear.legend(
        [lines[i] for i in order], [names[i] for i in order], title="AUROC", loc="lower right", fontsize=LEGEND_SIZE
    )
    show_low_rates(low_rates, int((~labels).sum()))
    return figures
