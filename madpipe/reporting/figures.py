"""Figures of scores as functions of arrays: each gives a matplotlib Figure and touches no global state (no pyplot)."""

import os
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from madpipe.evaluation.metrics import auroc
from madpipe.reporting.drawing import LABEL_SIZE, LEGEND_SIZE, PALETTE, label_axes, plain

NORMAL, ANOMALOUS = "#0072B2", "#D55E00"
BINS = 50


def evaluation_figure(
    anomaly_score: ArrayLike,
    is_anomalous: ArrayLike,
    *,
    threshold: float | None = None,
    alpha: float = 0.01,
    members: Mapping[str, ArrayLike] | None = None,
    controls: Mapping[str, ArrayLike] | None = None,
    title: str = "",
) -> Figure:
    """Score histograms of normal and anomalous inputs, and ROC curves on a linear and on a logarithmic axis.

    anomaly_score: [m], higher = worse. is_anomalous: bool [m]. threshold: the anomaly score from which p <= alpha.
    members, controls: name -> anomaly scores [m] on the same inputs; members are drawn solid, controls dashed.
    """
    labels = np.asarray(is_anomalous, dtype=bool)
    figure = Figure(figsize=(17, 5), layout="constrained")
    histogram, roc, roc_at_low_rates = figure.subplots(1, 3)
    draw_score_histograms(histogram, anomaly_score, labels, threshold=threshold, alpha=alpha)
    for axes in (roc, roc_at_low_rates):
        draw_roc(axes, anomaly_score, labels, members=members or {}, controls=controls or {})
    show_low_rates(roc_at_low_rates, int((~labels).sum()))
    lines, names = roc.get_legend_handles_labels()
    figure.legend(
        [lines[-1], *lines[:-1]],  # the default is drawn last, to lie on top, and listed first
        [names[-1], *names[:-1]],
        title="AUROC",
        loc="outside right upper",
        fontsize=LEGEND_SIZE + 1,
        title_fontsize=LEGEND_SIZE + 1,
    )
    if title:
        figure.suptitle(plain(title), fontsize=LABEL_SIZE + 2)
    return figure


def draw_score_histograms(
    axes: Axes,
    anomaly_score: ArrayLike,
    is_anomalous: ArrayLike,
    *,
    threshold: float | None = None,
    alpha: float | None = 0.01,
    names: tuple[str, str] = ("normal", "anomalous"),
) -> None:
    """The share of each group in every bin; scores far outside the normal ones are counted in the outermost bins.

    names: of the two groups. alpha: None where the rule that flags from `threshold` is another.
    """
    scores, labels = np.asarray(anomaly_score, dtype=np.float64), np.asarray(is_anomalous, dtype=bool)
    low, high = _histogram_range(scores, labels, threshold)
    beyond = int(np.sum((scores < low) | (scores > high)))
    edges = np.linspace(low, high, BINS + 1).tolist()
    for name, chosen, colour in ((names[0], ~labels, NORMAL), (names[1], labels, ANOMALOUS)):
        values = np.clip(scores[chosen], low, high)
        shares = np.full(len(values), 1 / max(len(values), 1))
        label = f"{name} ({len(values):,})"
        axes.hist(values, edges, weights=shares, histtype="stepfilled", color=colour, alpha=0.4, label=label)
        axes.hist(values, edges, weights=shares, histtype="step", color=colour, linewidth=1.5)
    if threshold is not None and np.isfinite(threshold):
        rule = "flagged from here on" if alpha is None else f"flagged: p ≤ {alpha:g}"
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.5, label=rule)
    note = f"\n{beyond:,} beyond the edges are in the outermost bins" if beyond else ""
    label_axes(axes, f"anomaly score (higher = worse){note}", "share of the group")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper left", fontsize=LEGEND_SIZE, ncols=2)


def draw_roc(
    axes: Axes,
    anomaly_score: ArrayLike,
    is_anomalous: ArrayLike,
    *,
    members: Mapping[str, ArrayLike],
    controls: Mapping[str, ArrayLike],
) -> None:
    """ROC of the default score (black, thick) above those of members (solid) and controls (dashed), with AUROC."""
    labels = np.asarray(is_anomalous, dtype=bool)
    for line, curves in (("-", members), ("--", controls)):
        for (name, scores), colour in zip(curves.items(), cycle(PALETTE), strict=False):
            label = f"{auroc(scores, labels):.3f}  {plain(name)}"
            axes.plot(*roc_points(scores, labels), line, color=colour, linewidth=1.4, label=label)
    label = f"{auroc(anomaly_score, labels):.3f}  default"
    axes.plot(*roc_points(anomaly_score, labels), color="black", linewidth=2.4, label=label)
    chance = np.geomspace(1e-5, 1, 200)
    axes.plot(chance, chance, ":", color="0.5", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    label_axes(axes, "false-positive rate", "true-positive rate")


def roc_points(anomaly_score: ArrayLike, is_anomalous: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false-positive, true-positive rates) of the rule score >= t, t falling over the distinct scores; from (0, 0)."""
    scores, labels = np.asarray(anomaly_score, dtype=np.float64), np.asarray(is_anomalous, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    last_of_each_value = np.append(np.diff(scores[order]) != 0, True)
    rates = []
    for group in (~labels, labels):
        caught = np.cumsum(group[order])[last_of_each_value]
        rates.append(np.concatenate([[0.0], caught / group.sum()]))
    return rates[0], rates[1]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG whole or not at all; the same figure gives the same bytes. The folder must exist."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        figure.savefig(partial, format="png", dpi=130, metadata={"Software": None})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _histogram_range(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], threshold: float | None
) -> tuple[float, float]:
    """From the smallest to the largest score, but no further than eight normal spreads from the normal median."""
    normal = scores[~labels] if (~labels).any() else scores
    median, lower, upper = np.quantile(normal, [0.5, 0.05, 0.95])
    spread = max(upper - lower, 1e-6 * max(abs(median), 1.0))
    low, high = max(scores.min(), median - 8 * spread), min(scores.max(), median + 8 * spread)
    if threshold is not None and np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    margin = 0.02 * (high - low) or 0.5 * spread
    return float(low - margin), float(high + margin)


def show_low_rates(axes: Axes, normal_count: int) -> None:
    """A logarithmic axis from half of the smallest rate that this many normal inputs can show."""
    axes.set_xscale("log")
    axes.set_xlim(0.5 / max(normal_count, 2), 1)
    for rate in (0.01, 0.05):
        axes.axvline(rate, color="0.75", linewidth=0.8, zorder=0)
    axes.set_xlabel("false-positive rate (lines at 1 % and 5 %)", fontsize=LABEL_SIZE)
