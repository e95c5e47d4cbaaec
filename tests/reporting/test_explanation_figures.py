"""The figure of an explanation: panels that fit what is known of the input."""

import numpy as np
import pytest

from madpipe.reporting.explanation_figures import explanation_figure

OUTPUTS = {name: np.eye(3)[i] for i, name in enumerate(("network", "trusted parts alone", "named parts removed"))}
BITS = {"delta@a": 5.0, "delta@b": -1.0}


def draw(**options):
    x = np.arange(12.0)
    return explanation_figure(x, options.pop("read", x[::-1]), OUTPUTS, BITS, **options)


@pytest.mark.parametrize(("image", "panels"), [(None, 3), ((3, 4), 4), ((1, 3, 4), 4), ((3, 2, 2), 4)])
def test_an_image_has_a_panel_for_itself_and_one_for_what_was_read(image, panels):
    figure = draw(image=image)
    assert len([axes for axes in figure.axes if axes.get_label() != "<colorbar>"]) == panels


def test_named_parts_stand_out_and_the_largest_is_on_top():
    axes = draw(named=["delta@a"]).axes[-1]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["delta@b", "delta@a"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[1]


def test_what_is_read_most_is_drawn_of_many_features():
    x = np.zeros(500)
    read = np.zeros(500)
    read[[3, 499]] = 2.0, -4.0
    figure = explanation_figure(x, read, OUTPUTS, BITS, title="a $title$ of two dollars")
    shown = [tick.get_text().partition(":")[0] for tick in figure.axes[0].get_xticklabels()]
    assert len(shown) == 24
    assert {"3", "499"} <= set(shown)


def test_the_spread_over_folds_is_drawn_on_the_explained_output_alone():
    assert len(draw(spread=np.full(3, 0.1)).axes[-2].containers) == 4  # three rows of bars, one of errors


def test_inputs_without_a_reading_say_so():
    figure = draw(read=None)
    assert "token" in figure.axes[0].texts[0].get_text()


def test_directions_and_trusted_inputs_are_shown_of_images_alone():
    beside = {"direction": ("delta@a", np.ones(12)), "gallery": [("near: row 1", np.ones(12)), ("far", np.zeros(12))]}
    assert len(draw(**beside).axes) == 3
    titles = [axes.get_title() for axes in draw(image=(3, 4), **beside).axes]
    assert any("delta@a" in title for title in titles)
    assert {"near: row 1", "far"} <= set(titles)
