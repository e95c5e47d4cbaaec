"""A benchmark's cells summed up: over seeds, over tasks, beside controls."""

import json

import pytest

from madpipe.evaluation.benchmark_summary import summarise
from madpipe.evaluation.benchmark_tables import markdown, tables
from madpipe.evaluation.validity import pooled_counts

CONTROLS = {
    "trusted_copy_kl": 0.8,
    "activations_knn": 0.6,
    "activations_lof": 0.7,
    "union_of_controls": 0.85,
    "que": 1.0,
}


def test_a_task_has_the_mean_and_the_worst_of_its_seeds(benchmark_cell):
    summary = summarise([benchmark_cell(seed=seed, auroc=auroc) for seed, auroc in enumerate((0.6, 0.9, 0.9))])
    (row,) = summary["tasks"]
    assert row["seeds"] == [0, 1, 2]
    assert row["default"]["auroc"] == pytest.approx(0.8)
    assert (row["default"]["worst"], row["default"]["best"]) == (0.6, 0.9)
    assert row["default"]["worst_tpr_at_1"] == 0.3


def test_the_interval_says_what_it_is_over(benchmark_cell):
    three = summarise([benchmark_cell(seed=seed, auroc=0.7 + seed / 10) for seed in range(3)])["tasks"][0]["default"]
    assert three["interval_over"] == "seeds"
    assert 0.69 < three["interval"][0] < three["auroc"] < three["interval"][1] < 0.91
    one = summarise([benchmark_cell(auroc=0.9)])["tasks"][0]["default"]
    assert (one["interval_over"], one["interval"]) == ("rows", [0.8, pytest.approx(0.95)])
    two = summarise([benchmark_cell(seed=seed) for seed in (0, 1)])["tasks"][0]["default"]
    assert (two["interval_over"], two["interval"]) == (None, None)


def test_of_each_kind_the_control_of_the_highest_mean_stands_and_offline_ones_apart(benchmark_cell):
    swapped = CONTROLS | {"activations_knn": 1.0, "activations_lof": 0.5}  # means 0.8 and 0.6
    cells = [benchmark_cell(seed=0, controls=CONTROLS), benchmark_cell(seed=1, controls=swapped)]
    controls = summarise(cells)["tasks"][0]["controls"]
    assert controls["activations"]["name"] == "activations_knn"
    assert controls["offline"]["name"] == "que"
    assert controls["union"]["auroc"] == 0.85
    assert controls["best"]["name"] in ("trusted_copy_kl", "activations_knn")  # both have the mean 0.8


def test_overall_each_kind_of_rival_has_its_mean_and_its_worst_task(benchmark_cell):
    cells = [
        benchmark_cell("a", controls=CONTROLS),
        benchmark_cell("b", auroc=0.5, controls=CONTROLS | {"trusted_copy_kl": 0.4}),
    ]
    rows = {row["what"]: row for row in summarise(cells)["overall"]}
    assert (rows["default"]["mean"], rows["default"]["worst"], rows["default"]["worst_task"]) == (0.7, 0.5, "b")
    assert rows["best activation detector"]["detector"] == "activations_lof"
    assert rows["best single control"]["detector"] == "activations_lof"  # 0.7 against (0.8 + 0.4) / 2
    assert rows["union of controls"]["mean"] == 0.85
    assert rows["best offline control"]["detector"] == "que"


def test_wins_ties_and_losses_are_counted_over_cells(benchmark_cell):
    cells = [benchmark_cell(seed=s, auroc=a, controls={"strip_x": 0.6}) for s, a in enumerate((0.5, 0.6, 0.7, 0.8))]
    (row,) = summarise(cells)["wins"]
    assert (row["wins"], row["ties"], row["losses"]) == (2, 1, 1)


def test_false_positives_are_pooled_over_seeds_and_holm_adjusted(benchmark_cell):
    cells = [benchmark_cell(seed=seed, flagged=(9, 5)) for seed in (0, 1)]
    one, five = summarise(cells)["false_positives"]
    expected = pooled_counts([9, 9], [100, 100], [199, 199], 0.01)
    assert (one["realised"], one["interval"]) == (0.09, expected.interval)
    assert one["p_holm"] == pytest.approx(2 * expected.two_sided_p_value)  # the smaller of two
    assert five["p_holm"] == pytest.approx(pooled_counts([5, 5], [100, 100], [199, 199], 0.05).two_sided_p_value)


def test_rows_unlike_trusted_ones_are_left_out_of_the_false_positives(benchmark_cell):
    cell = benchmark_cell(flagged=(50, 60))
    cell["default"]["false_positives"]["like_trusted"] = {"rows": 40, "1": 0, "5": 2}
    one, five = summarise([cell])["false_positives"]
    assert (one["rows"], one["realised"], five["realised"]) == (40, 0.0, 0.05)


def test_cross_fit_pipelines_are_promised_nothing_that_they_do_not_promise(benchmark_cell):
    one, _ = summarise([benchmark_cell(crossed=True)])["false_positives"]
    assert "interval" not in one
    assert "p_holm" not in one


def test_agree_rows_have_a_table_of_their_own(benchmark_cell):
    summary = summarise([benchmark_cell(controls=CONTROLS, agree=0.55)])
    shown = {table.title: table for table in tables(summary)}
    (row,) = shown["Same output, other mechanism"].rows
    assert (row["rows"], row["madpipe"]) == (10, "0.550 / 0.28")
    assert "Same output, other mechanism" not in {table.title for table in tables(summarise([benchmark_cell()]))}


def test_the_summary_is_json_and_its_tables_are_markdown(benchmark_cell):
    summary = summarise([benchmark_cell(controls=CONTROLS), benchmark_cell(pipeline="apd", auroc=0.8)])
    assert json.loads(json.dumps(summary, allow_nan=False))["tasks"][1]["pipeline"] == "apd"
    text = markdown("title", tables(summary))
    assert "| task | default | 1 | 0.900 / 0.45 | 0.900 / 0.45 | 0.50 | 0.800 / 0.40 |" in text
    assert "| apd | pipeline | 1 | 0.800 |" in text


def test_a_task_without_normal_rows_like_trusted_ones_has_no_false_positive_rates(benchmark_cell):
    promised, shifted = benchmark_cell(), benchmark_cell(task="all new")
    shifted["default"]["false_positives"]["like_trusted"] = {"rows": 0, "1": 0, "5": 0}
    rows = summarise([promised, shifted])["false_positives"]
    assert {row["task"] for row in rows} == {"task"}
