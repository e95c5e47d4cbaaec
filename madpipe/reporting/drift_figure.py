"""The course of a watch for drift: evidence against unchanged scores, input by input, and where it raised an alarm."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from madpipe.reporting.drawing import PALETTE, finish, label_axes


def drift_figure(at: Sequence[int], log10_evidence: Sequence[float], level: float, alarmed_at: int | None) -> Figure:
    """at: inputs seen; log10_evidence: log10 of the martingale then; level: the alarm is at 1 / level."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(at, log10_evidence, color="black", linewidth=1.4, label="evidence of drift")
    threshold = -np.log10(level)
    axes.axhline(threshold, color=PALETTE[5], linestyle="--", label=f"alarm (false at most {level:.2%} of the time)")
    if alarmed_at is not None:
        axes.axvline(alarmed_at, color=PALETTE[5], linewidth=1.2, label=f"raised at input {alarmed_at:,}")
    axes.set_ylim(top=max(axes.get_ylim()[1], 1.25 * threshold))
    label_axes(axes, "inputs scored", "log10 of the test martingale")
    return finish(figure, axes, "Have the scores drifted from those of trusted inputs?")
