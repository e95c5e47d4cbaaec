"""The course of a watch as a figure: its line, where the alarm is, and whether it was raised."""

import pytest

from madpipe.reporting.drift_figure import drift_figure


@pytest.mark.parametrize("alarmed_at", [None, 30])
def test_the_figure_shows_course_threshold_and_alarm(alarmed_at):
    axes = drift_figure([0, 20, 40], [0.0, -1.0, 5.0], 0.01, alarmed_at).axes[0]
    evidence, threshold, *alarm = axes.lines
    assert list(evidence.get_ydata()) == [0, -1, 5]
    assert threshold.get_ydata()[0] == 2  # log10 of 1 / 0.01
    assert [line.get_xdata()[0] for line in alarm] == ([] if alarmed_at is None else [30])


def test_the_threshold_is_in_sight_where_nothing_comes_near():
    axes = drift_figure([0, 1], [0.0, -0.1], 0.001, None).axes[0]
    assert axes.get_ylim()[1] > 3
