"""Comparison: means, worst tasks, and tables that line up."""

import pytest

from madpipe.evaluation.comparison import Result, markdown_table, over_seeds, over_tasks, text_table


def result(task: str, name: str, auroc: float, seed: int = 0, role: str = "member") -> Result:
    return Result(task=task, name=name, role=role, seed=seed, metrics={"auroc": auroc})


def test_seeds_are_averaged_with_their_deviation():
    # 0.8 and 1.0: mean 0.9, deviation sqrt(2 * 0.1^2 / 1) = 0.1414.
    (row,) = over_seeds([result("digits", "knn", 0.8, 0), result("digits", "knn", 1.0, 1)], ["auroc"])
    assert row["seeds"] == 2
    assert row["auroc"] == pytest.approx(0.9)
    assert row["auroc_sd"] == pytest.approx(0.02**0.5)


def test_one_seed_has_no_deviation():
    (row,) = over_seeds([result("digits", "knn", 0.8)], ["auroc"])
    assert "auroc_sd" not in row


def test_a_metric_that_is_missing_stays_empty():
    (row,) = over_seeds([result("digits", "knn", 0.8)], ["tpr_at_1"])
    assert row["tpr_at_1"] is None


def test_a_detector_is_judged_by_its_worst_task():
    (row,) = over_tasks([result("a", "knn", 1.0), result("b", "knn", 0.5)])
    assert (row["mean"], row["worst"], row["worst_task"], row["tasks"]) == (0.75, 0.5, "b", 2)


def test_the_worst_task_is_the_one_of_the_worst_seed_mean():
    results = [result("a", "knn", 0.2, 0), result("a", "knn", 1.0, 1), result("b", "knn", 0.5)]
    assert over_tasks(results)[0]["worst_task"] == "b"


def test_the_default_stands_first_and_then_the_best_worst_task_of_each_role():
    results = [
        result("a", "student", 0.9, role="control"),
        result("a", "copy", 0.95, role="control"),
        result("a", "knn", 0.99),
        result("a", "madpipe", 0.8, role="default"),
    ]
    assert [row["detector"] for row in over_tasks(results)] == ["madpipe", "knn", "copy", "student"]


def test_a_detector_without_the_metric_is_left_out():
    assert over_tasks([Result(task="a", name="knn", role="member")]) == []


ROWS = [{"detector": "knn", "auroc": 0.5, "seeds": 3}, {"detector": "a|b", "auroc": 12.25, "note": (0.0, 1.0)}]


def test_text_columns_line_up():
    assert text_table(ROWS) == (
        "detector   auroc  seeds  note\n"
        "--------  ------  -----  --------------\n"
        "knn        0.500      3\n"
        "a|b       12.250         [0.000, 1.000]\n"
    )


def test_markdown_escapes_bars_and_aligns_numbers():
    assert markdown_table(ROWS, ["detector", "auroc"]) == (
        "| detector | auroc |\n| --- | ---: |\n| knn | 0.500 |\n| a\\|b | 12.250 |\n"
    )


def test_a_table_of_no_rows_has_only_its_header():
    assert markdown_table([], ["detector"]) == "| detector |\n| --- |\n"
    assert text_table([], ["detector"]) == "detector\n--------\n"
