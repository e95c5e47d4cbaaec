"""Figures: what is drawn is what the arrays say, and a file is whole or absent."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from madpipe.reporting.figures import evaluation_figure, roc_points, save_figure

LABELS = np.array([False] * 40 + [True] * 20)


def scores(seed: int = 0, shift: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=60) + shift * LABELS


def legend_texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_roc_points_are_those_of_scikit_learn_with_and_without_ties(decimals):
    values = np.round(scores(), decimals)
    expected = roc_curve(LABELS, values, drop_intermediate=False)[:2]
    np.testing.assert_allclose(roc_points(values, LABELS), expected, rtol=0, atol=1e-12)


def test_evaluation_figure_lists_the_default_first_with_its_auroc():
    # A score equal to the label separates wholly: AUROC 1.
    figure = evaluation_figure(LABELS.astype(float), LABELS, members={"a": scores()}, controls={"b": np.zeros(60)})
    texts = legend_texts(figure.legends[0])
    assert texts[0] == "1.000  default"
    assert texts[1].endswith("  a")
    assert texts[2] == "0.500  b"


def test_members_are_solid_and_controls_dashed():
    figure = evaluation_figure(scores(), LABELS, members={"a": scores(1)}, controls={"b": scores(2)})
    styles = {line.get_label()[-1]: line.get_linestyle() for line in figure.axes[1].get_lines()}
    assert styles["a"] == "-"
    assert styles["b"] == "--"


def test_the_second_roc_panel_has_a_logarithmic_axis_from_half_the_smallest_rate():
    figure = evaluation_figure(scores(), LABELS)
    assert [axes.get_xscale() for axes in figure.axes] == ["linear", "linear", "log"]
    assert figure.axes[2].get_xlim()[0] == 0.5 / 40


def test_the_threshold_is_drawn_at_its_score():
    histogram = evaluation_figure(scores(), LABELS, threshold=1.25, alpha=0.05).axes[0]
    (line,) = histogram.get_lines()
    assert line.get_xdata()[0] == 1.25
    assert "flagged: p ≤ 0.05" in legend_texts(histogram.get_legend())


@pytest.mark.parametrize("threshold", [None, float("inf"), float("nan")])
def test_no_threshold_is_drawn_where_no_score_would_be_flagged(threshold):
    assert not evaluation_figure(scores(), LABELS, threshold=threshold).axes[0].get_lines()


def test_a_threshold_beyond_all_scores_lies_inside_the_histogram():
    histogram = evaluation_figure(scores(), LABELS, threshold=100.0).axes[0]
    assert histogram.get_xlim()[1] > 100


def test_the_shares_of_each_group_add_up_to_one():
    histogram = evaluation_figure(np.concatenate([scores()[:-1], [1e12]]), LABELS).axes[0]
    outlines = [patch for patch in histogram.patches if patch.get_fill()]
    # Each outline goes up and back over the bins; the sum over its distinct heights per bin is one.
    for outline in outlines:
        heights = outline.get_xy()[:, 1][1:101:2]
        assert heights.sum() == pytest.approx(1)


def test_scores_far_outside_are_counted_in_the_outermost_bins_and_said():
    values = scores()
    values[-3:] = 1e9
    histogram = evaluation_figure(values, LABELS).axes[0]
    assert histogram.get_xlim()[1] < 100
    assert "3 beyond the edges" in histogram.get_xlabel()


@pytest.mark.parametrize("values", [np.zeros(60), np.full(60, 1e6), LABELS * 1e-12], ids=["zero", "large", "tiny"])
def test_scores_without_spread_can_be_drawn(tmp_path, values):
    save_figure(evaluation_figure(values, LABELS), tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 10_000


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        save_figure(evaluation_figure(scores(), LABELS), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_figure_that_cannot_be_drawn_leaves_no_file(tmp_path):
    figure = evaluation_figure(scores(), LABELS)
    figure.axes[0].set_title(r"$\nosuchsymbol$")
    with pytest.raises(ValueError, match="nosuchsymbol"):
        save_figure(figure, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_dollar_sign_in_a_name_is_a_dollar_sign(tmp_path):
    members = {r"$\nosuchsymbol$": scores(1)}
    save_figure(evaluation_figure(scores(), LABELS, members=members, title=r"$\x$"), tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_figures_are_drawn_without_pyplot():
    program = (
        "import sys, numpy as np; from madpipe.reporting.figures import evaluation_figure;"
        "evaluation_figure(np.arange(4.0), np.array([0, 0, 1, 1])); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
