"""The sections of a report: whole in one file, with every name as it stands, and readable by a stranger."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from madpipe.evaluation.calibration_check import LEVELS, CalibrationCheck, flagging_threshold
from madpipe.reporting import pipeline_page
from madpipe.reporting.explanation_figures import explanation_panels
from madpipe.reporting.page import INK, PAPER, drawing, facts, folded, page
from madpipe.reporting.report_figures import p_value_figure, roc_figures, score_distribution_figure

NAME = "<script>alert('&$x$')</script>"


@pytest.fixture(scope="module")
def scores():
    draw = np.random.default_rng(0)
    return draw.normal(size=99), np.concatenate([draw.normal(size=80), draw.normal(3, 1, 20)]), np.arange(100) >= 80


@pytest.fixture(scope="module")
def written(scores):
    """Every section, with the name in every place that a user's own words reach."""
    calibration, new, labels = scores
    check = CalibrationCheck.of(np.linspace(0.02, 1, 50), 49)
    metrics = {"auroc": 0.9, "tpr_at_1": 0.5, "recall_at_nominal_1": 0.4, "fpr_at_nominal_1": 0.02}
    metrics["fpr_at_nominal_1_interval"] = (0.0, 0.04)
    result = {"rows": 100, "anomalous": 20, "default": metrics, "members": {NAME: metrics}}
    result["controls"] = {f"{NAME} {k}": metrics for k in range(6)}
    values = np.arange(4.0)
    panels = explanation_panels(
        values, values, {"network": [0.9, 0.1], NAME: [0.5, 0.5]}, {NAME: 2.0}, named=[NAME], image=(2, 2),
        direction=(NAME, values), gallery=[(f"near: {NAME}", values)],
    )  # fmt: skip
    histogram = score_distribution_figure((("trusted", calibration), (NAME, new)), threshold=2.0, alpha=0.01)
    sections = [
        pipeline_page.introduction({"trusted data": NAME}, [NAME]),
        pipeline_page.decomposition_section({"alive": {NAME: [3.0, 5.0]}}, 2, "nats", Figure()),
        pipeline_page.components_section([{"site": NAME, "alive": 3}], {NAME: Figure()}, {NAME: Figure()}),
        pipeline_page.calibration_section({NAME: check.to_json()}, p_value_figure({NAME: check}), False, NAME),
        pipeline_page.scores_section(histogram, NAME, NAME),
        pipeline_page.evaluation_section(result, roc_figures(new, labels, {NAME: new}), NAME),
        pipeline_page.flagged_section([{"input": NAME}], 1, [pipeline_page.explanation(NAME, NAME, panels)], NAME),
        pipeline_page.making_section(f"name: {NAME}", {"folder": NAME}, {NAME: f"madpipe {NAME}"}),
    ]
    return page(NAME, sections)


def test_the_page_is_well_formed_fetches_nothing_and_runs_nothing(written, read_page):
    reader = read_page(written)
    assert (reader.open, reader.wrong, reader.fetched, reader.run) == ([], [], [], [])
    assert not re.search(r"url\((?!#)|@import", written)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", written))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG's own words


def test_names_are_shown_as_they_stand(written, read_page):
    reader = read_page(written)
    assert "<script" not in written
    assert sum(NAME in words for words in reader.words) >= 20


def test_figures_take_the_colours_of_the_page(written):
    assert INK not in written
    assert PAPER not in written
    assert "fill: var(--paper)" in written  # a legend's ground
    assert "stroke: currentColor" in written
    assert "stroke: #000000" not in written


def test_each_section_opens_with_what_to_look_for(written):
    sections = written.split("<section>")[1:]
    assert len(sections) == 8
    assert all('<p class="lead">' in section for section in sections)
    assert all("Look for: " in section and "Bad would be " in section for section in sections[1:])


def test_a_name_in_the_colour_of_ink_is_left_alone():
    figure = Figure()
    figure.text(0.5, 0.5, f"the colour {INK}", color=INK)
    drawn = drawing(figure, "", "a")
    assert f"the colour {INK}" in drawn
    assert "fill: currentColor" in drawn


def test_no_letter_is_smaller_than_a_phone_can_show():
    # 10 inches at 3.6 rem are 36 rem, 576 px of 960 drawn: 12 points, which are 16 px, become 9.6 px
    assert 'style="min-width: 36rem"' in drawing(Figure(figsize=(10, 2)), "", "a")


def test_parts_are_folded_away_unless_they_are_to_be_shown():
    assert folded("a<b", "it") == "<details><summary>a&lt;b</summary>\nit\n</details>"
    assert folded("a", "it", shown=True).startswith("<details open>")
    assert "<td class=word>a&lt;b</td><td class=word>1</td>" in facts({"a<b": 1})


def test_a_cross_fitted_pipeline_is_told_to_have_no_check_of_its_own():
    told = pipeline_page.calibration_section({}, None, True, "60 rows")
    assert "within a factor of two" in told
    assert "<svg" not in told


def test_nothing_flagged_is_said():
    assert "Nothing is flagged." in pipeline_page.flagged_section([], 0, [], "")


def test_a_clear_departure_from_honest_p_values_is_called_that():
    small = CalibrationCheck.of(np.full(50, 0.02), 99).to_json()
    assert small["uniformity_p_value"] < 0.01
    assert "a clear departure" in pipeline_page.calibration_section({"these": small}, None, False, "")
    honest = CalibrationCheck.of(np.arange(1, 51) / 51, 50).to_json()
    assert "no sign of anything wrong" in pipeline_page.calibration_section({"these": honest}, None, False, "")


def test_a_check_counts_the_rows_at_or_below_each_level():
    check = CalibrationCheck.of([0.01, 0.05, 0.2, 1.0], 99).to_json()
    assert [rate["level"] for rate in check["rates"]] == list(LEVELS)
    assert [rate["share"] for rate in check["rates"]] == [0.25, 0.5, 0.5, 0.75]


def test_the_threshold_is_the_score_that_flags_begin_above():
    # 99 rows: p = (1 + #{calibration >= s}) / 100 <= 0.02 needs at most one row at or above s
    calibration = np.arange(99.0)
    assert flagging_threshold(calibration, 0.02) == 97
    assert flagging_threshold(calibration, 0.005) is None


def test_panels_are_what_the_whole_explanation_draws():
    values = np.arange(4.0)
    drawn = explanation_panels(values, values, {"network": [0.9, 0.1]}, {"delta@a": 2.0})
    assert [len(figure.axes) for figure in drawn] == [1, 1, 1]  # features, outputs, parts
    images = explanation_panels(
        values, values, {"network": [1.0]}, {"delta@a": 2.0}, image=(2, 2), gallery=[("near: row 3", values)] * 2
    )
    assert [len(figure.axes) for figure in images] == [1, 2, 1, 1, 2]  # what is read has a colour bar


def test_the_curves_of_a_large_file_stay_small():
    draw = np.random.default_rng(1)
    scores, labels = draw.normal(size=200_000), np.arange(200_000) >= 100_000
    drawn = [drawing(figure, "", "a") for figure in roc_figures(scores, labels, {"control": scores[::-1]})]
    assert sum(map(len, drawn)) < 400_000
