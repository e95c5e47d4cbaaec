"""Figures of a decomposition: what is drawn is what the arrays say."""

import subprocess
import sys

import numpy as np
import pytest

from madpipe.reporting.decomposition_figures import (
    alive_spectrum_figure,
    co_importance_figure,
    component_matrices_figure,
    importance_matrix_figure,
    l0_figure,
    reconstruction_figure,
    training_figure,
)
from madpipe.reporting.figures import save_figure


def legend_texts(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def images(figure) -> list:
    """Heat maps, without the colour bar."""
    return [axes.get_images()[0] for axes in figure.axes if axes.get_images()]


def bars(axes, name: str) -> list[float]:
    """Where the bars of a variant end, from top to bottom."""
    (found,) = [container for container in axes.containers if container.get_label() == name]
    others = [c for c in axes.containers if c.patches[0].get_facecolor() == found.patches[0].get_facecolor()]
    ends = {round(c.patches[0].get_y(), 6): c.patches[0].get_x() + c.patches[0].get_width() for c in others}
    return [ends[place] for place in sorted(ends)]


def numbers(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


class TestComponentMatrices:
    def test_each_matrix_is_drawn_under_its_title(self):
        matrices = [("target", [[1.0, 2.0], [3.0, 4.0]]), ("c0", [[1.0, 0.0], [0.0, 0.0]])]
        figure = component_matrices_figure(matrices)
        assert [axes.get_title() for axes in figure.axes[:2]] == ["target", "c0"]
        for image, (_, matrix) in zip(images(figure), matrices, strict=True):
            assert image.get_array().tolist() == matrix

    def test_all_share_a_colour_scale_with_zero_in_its_middle(self):
        figure = component_matrices_figure([("a", [[-3.0, 1.0]]), ("b", [[0.5, 0.0]]), ("c", [[np.nan, np.inf]])])
        assert [image.get_clim() for image in images(figure)] == [(-3.0, 3.0)] * 3

    def test_zeros_alone_have_a_scale(self):
        assert images(component_matrices_figure([("a", [[0.0]])]))[0].get_clim() == (-1.0, 1.0)

    def test_nine_matrices_take_two_rows_and_leave_seven_places_blank(self):
        figure = component_matrices_figure([(str(k), [[1.0]]) for k in range(9)])
        panels = figure.axes[:16]
        assert [axes.axison for axes in panels] == [True] * 9 + [False] * 7

    @pytest.mark.parametrize(("shape", "aspect"), [((5, 2), 1.0), ((40, 10), "auto"), ((2, 10), "auto")])
    def test_cells_are_square_unless_a_matrix_is_long(self, shape, aspect):
        assert component_matrices_figure([("a", np.ones(shape))]).axes[0].get_aspect() == aspect


class TestImportanceMatrix:
    # Subcomponent 0 is dead, 1 and 3 matter to feature 1 (3 more), 2 to feature 0.
    importances = np.array([[0.05, 0.2, 1.0, 0.0], [0.0, 0.6, 0.0, 0.9]])

    def test_alive_subcomponents_stand_by_their_feature_the_larger_first(self):
        figure = importance_matrix_figure({"fc1": self.importances})
        assert images(figure)[0].get_array().tolist() == [[1.0, 0.0, 0.2], [0.0, 0.9, 0.6]]
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["2", "3", "1"]

    def test_the_title_counts_the_alive(self):
        figure = importance_matrix_figure({"fc1": self.importances, "fc2": self.importances}, threshold=0.7)
        assert [axes.get_title() for axes in figure.axes[:2]] == ["fc1\n2 of 4 alive", "fc2\n2 of 4 alive"]

    def test_colours_run_from_zero_to_one_whatever_the_values(self):
        assert images(importance_matrix_figure({"fc1": 0.5 * self.importances}))[0].get_clim() == (0.0, 1.0)

    def test_a_site_with_none_alive_shows_all(self):
        figure = importance_matrix_figure({"fc1": np.full((2, 4), 0.1)})
        assert figure.axes[0].get_title() == "fc1\n0 of 4 alive"
        assert images(figure)[0].get_array().shape == (2, 4)

    def test_many_subcomponents_have_no_numbers(self):
        assert not importance_matrix_figure({"fc1": np.eye(60)}).axes[0].get_xticklabels()


class TestAliveSpectrum:
    def test_it_falls_and_its_legend_counts_what_is_above_the_threshold(self):
        (axes,) = alive_spectrum_figure({"fc1": [0.05, 0.9, 0.2, 0.1]}).axes
        # 0.9 and 0.2 are above 0.1; 0.1 itself is not.
        assert legend_texts(axes) == ["fc1: 2 of 4 alive"]
        assert list(axes.get_lines()[0].get_ydata()) == [0.9, 0.2, 0.1, 0.05]
        assert list(axes.get_lines()[1].get_ydata()) == [0.1, 0.1]

    def test_many_lines_never_share_both_colour_and_dashes(self):
        axes = alive_spectrum_figure({f"site{i}": [0.5] for i in range(25)}).axes[0]
        looks = [(line.get_color(), line.get_linestyle()) for line in axes.get_lines()[:25]]
        assert len(set(looks)) == 25

    def test_means_have_a_logarithmic_panel_that_leaves_zeros_out(self):
        _, axes = alive_spectrum_figure({"fc1": [0.9, 0.0]}, {"fc1": [0.0, 0.02]}).axes
        assert axes.get_yscale() == "log"
        np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [0.02, np.nan])
        assert legend_texts(axes) == ["fc1"]


class TestCurves:
    def test_losses_that_are_all_positive_have_a_logarithmic_axis(self):
        assert training_figure([0, 1], {"a": [1.0, 0.1]}).axes[0].get_yscale() == "log"

    def test_a_loss_that_reaches_zero_keeps_a_linear_axis(self):
        assert training_figure([0, 1], {"a": [1.0, 0.0]}).axes[0].get_yscale() == "linear"

    def test_l0_is_drawn_from_zero_beside_what_mechanisms_need(self):
        axes = l0_figure([0, 10], {"fc1": [6.0, 2.0]}, wanted=1.5).axes[0]
        assert list(axes.get_lines()[0].get_ydata()) == [6.0, 2.0]
        assert list(axes.get_lines()[1].get_ydata()) == [1.5, 1.5]
        assert legend_texts(axes) == ["fc1", "known mechanisms: 1.5"]
        assert (axes.get_yscale(), axes.get_ylim()[0]) == ("linear", 0.0)

    @pytest.mark.parametrize(("last", "scale"), [(0.5, "log"), (0.0, "linear")])
    def test_an_l0_that_falls_far_has_a_logarithmic_axis_unless_it_reaches_zero(self, last, scale):
        assert l0_figure([0, 10], {"fc1": [40.0, last]}).axes[0].get_yscale() == scale


class TestReconstruction:
    def test_bars_end_at_the_values_and_are_told(self):
        divergences = {"output": {"alive": 0.01, "stochastic": 0.2}, "hidden": {"alive": 0.03, "stochastic": 0.5}}
        axes = reconstruction_figure(divergences).axes[0]
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_yticklabels()] == ["alive", "stochastic"]
        assert bars(axes, "output") == pytest.approx([0.01, 0.2])
        assert bars(axes, "hidden") == pytest.approx([0.03, 0.5])
        assert legend_texts(axes) == ["output", "hidden"]
        assert numbers(axes) == ["0.01", "0.2", "0.03", "0.5"]

    def test_several_seeds_are_dots_about_their_mean(self):
        axes = reconstruction_figure({"spd": {"alive": [0.1, 0.2, 0.6]}}).axes[0]
        assert bars(axes, "spd") == pytest.approx([0.3])
        assert list(axes.get_lines()[0].get_xdata()) == [0.1, 0.2, 0.6]
        assert "dots: seeds" in axes.get_xlabel()

    @pytest.mark.parametrize(("value", "told"), [(0.0, "0"), (-1e-9, "-1e-09"), (np.nan, "nan")])
    def test_what_has_no_logarithm_has_no_bar_but_its_number(self, value, told):
        axes = reconstruction_figure({"spd": {"unmasked": value, "alive": 0.1}}).axes[0]
        left = axes.get_xlim()[0]
        assert bars(axes, "spd") == pytest.approx([left, 0.1])
        assert 0 < left < 0.1
        assert numbers(axes) == [told, "0.1"]

    def test_a_mask_of_one_variant_leaves_a_gap_in_the_other(self):
        axes = reconstruction_figure({"spd": {"alive": 0.1, "adversarial": 0.4}, "apd": {"adversarial": 0.2}}).axes[0]
        assert bars(axes, "apd") == pytest.approx([0.2])
        assert len(axes.get_yticklabels()) == 2


@pytest.mark.parametrize(
    "figure",
    [
        component_matrices_figure([]),
        importance_matrix_figure({}),
        alive_spectrum_figure({}, {}),
        training_figure([], {}),
        l0_figure([], {}),
        reconstruction_figure({}),
        component_matrices_figure([("$a$", np.eye(2))], title=r"$\x$"),
        importance_matrix_figure({r"$\y$": np.eye(2)}, title="$"),
        reconstruction_figure({r"$\y$": {r"$\z$": 1.0}, "b": {}}, title=r"$\x$"),
    ],
)
def test_nothing_and_names_with_dollar_signs_can_be_drawn(figure, tmp_path):
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_figures_are_drawn_without_pyplot():
    program = (
        "import sys, numpy as np; from madpipe.reporting.decomposition_figures import component_matrices_figure;"
        "component_matrices_figure([('a', np.eye(2))]); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


class TestCoImportance:
    def test_the_matrix_is_drawn_as_it_stands_with_a_name_for_each_row(self):
        together = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.1], [0.0, 0.1, 1.0]])
        figure = co_importance_figure(together, ["fc1.2", "head.0", "fc1.0"], [2, 1])
        assert images(figure)[0].get_array().tolist() == together.tolist()
        assert images(figure)[0].get_clim() == (0.0, 1.0)
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["fc1.2", "head.0", "fc1.0"]

    def test_each_component_has_a_frame_around_its_own(self):
        figure = co_importance_figure(np.eye(6), [str(k) for k in range(6)], [3, 1, 2])
        frames = [(frame.get_x(), frame.get_y(), frame.get_width()) for frame in figure.axes[0].patches]
        assert frames == [(-0.5, -0.5, 3), (2.5, 2.5, 1), (3.5, 3.5, 2)]

    def test_too_many_subcomponents_have_no_names_and_a_figure_of_bounded_size(self):
        figure = co_importance_figure(np.eye(400), [str(k) for k in range(400)], [400])
        assert not figure.axes[0].get_yticklabels()
        assert max(figure.get_size_inches()) < 12

    def test_with_nothing_alive_there_is_a_figure_that_says_so(self, tmp_path):
        figure = co_importance_figure(np.zeros((0, 0)), [], [])
        assert figure.axes[0].get_xlabel().startswith("0 alive subcomponents in 0 components")
        save_figure(figure, tmp_path / "empty.png")
