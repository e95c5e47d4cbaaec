"""A benchmark's page: whole in one file, with every name as it stands."""

import re

import pytest

from madpipe.evaluation.benchmark_summary import summarise
from madpipe.evaluation.benchmark_tables import tables
from madpipe.reporting.benchmark_page import benchmark_page, dot_plot, values_of
from madpipe.reporting.page import INK, table

NAME = "<b>&$x$</b>"


@pytest.fixture
def summary(benchmark_cell):
    controls = {"trusted_copy_kl": 0.8, "student_kl": 0.7, "activations_knn": 0.6, "union_of_controls": 0.85}
    return summarise([benchmark_cell(NAME, seed, auroc=0.8 + seed / 10, controls=controls) for seed in (0, 1)])


@pytest.fixture
def written(summary):
    return benchmark_page(f"benchmark: {NAME}", "2 of 2 cells", summary, tables(summary))


def test_the_page_is_well_formed_and_fetches_nothing(written, read_page):
    reader = read_page(written)
    assert (reader.open, reader.wrong, reader.fetched) == ([], [], [])
    assert "url(http" not in written
    assert "@import" not in written
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", written))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG's own words


def test_names_are_shown_as_they_stand(written, read_page):
    reader = read_page(written)
    assert "<b>" not in written
    assert reader.words.count(NAME) >= 4  # a row of each table; figures draw it too


def test_it_has_its_dark_its_narrow_and_its_printed_form(written):
    for needed in ("prefers-color-scheme: dark", "@media print", "width=device-width", "overflow-x: auto"):
        assert needed in written


def test_figures_take_the_colour_of_the_text(written):
    assert written.count("<svg") == 2
    assert INK not in written
    assert "currentColor" in written


def test_a_dot_stands_for_every_seed(summary):
    series = values_of(summary, "values")
    assert series["default"] == {NAME: [0.8, 0.9]}
    axes = dot_plot(series, "AUROC").axes[0]
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    assert drawn["default"] == [0.8, 0.9]
    assert set(drawn) == {"default", "trusted copy", "student", "best activation detector", "union of controls"}


def test_the_same_summary_gives_the_same_bytes(written, summary):
    assert benchmark_page(f"benchmark: {NAME}", "2 of 2 cells", summary, tables(summary)) == written


def test_words_stand_to_the_left_and_numbers_to_the_right():
    shown = table([{"name": "a<b", "rate": 0.5, "share": "1.5 %", "none": None}])
    assert "<td class=word>a&lt;b</td><td>0.500</td><td>1.5 %</td><td></td>" in shown
