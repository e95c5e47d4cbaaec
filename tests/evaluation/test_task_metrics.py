"""One detector on one task: what is counted on which rows."""

import numpy as np
import pytest

from madpipe.evaluation.intervals import mean_interval
from madpipe.evaluation.task_metrics import TestRows, task_metrics

IS_ANOMALOUS = np.array([False] * 4 + [True] * 2)
NEAR = np.array([True, True, False, False, True, False])


def test_normal_rows_are_told_apart_and_anomalies_belong_to_none():
    rows = TestRows(IS_ANOMALOUS, {"near": NEAR, "other": IS_ANOMALOUS}).normal_rows()
    assert {name: mask.tolist() for name, mask in rows.items()} == {
        "all": [True] * 4 + [False] * 2,
        "near": [True, True, False, False, False, False],
    }


def test_rows_like_trusted_ones_are_the_normal_rows_outside_shifted_subsets():
    rows = TestRows(IS_ANOMALOUS, {"near": NEAR}, shifted=("near", "absent")).normal_rows()
    assert rows["like_trusted"].tolist() == [False, False, True, True, False, False]


def test_false_positives_are_counted_on_each_kind_of_normal_row():
    p = np.array([0.01, 0.04, 0.5, 0.05, 0.01, 0.01])
    counts = task_metrics(-p, p, TestRows(IS_ANOMALOUS, {"near": NEAR}), 99)["false_positives"]
    assert counts == {"all": {"rows": 4, "1": 1, "5": 3}, "near": {"rows": 2, "1": 1, "5": 2}}


def test_agree_rows_are_the_only_positives_of_their_metrics():
    # Normal rows score 0 to 3; anomalies 9, 9; agree rows 2.5 and -1: 3 of 4 and 0 of 4 normal rows below them.
    score = np.array([0, 1, 2, 3, 9, 9, 2.5, -1])
    metrics = task_metrics(score, np.full(8, 0.5), TestRows(IS_ANOMALOUS), 99)
    assert metrics["auroc"] == 1
    assert metrics["agree"]["auroc"] == pytest.approx(3 / 8)
    assert metrics["agree"]["rows"] == 2
    assert "agree" not in task_metrics(score[:6], np.full(6, 0.5), TestRows(IS_ANOMALOUS), 99)


def test_the_interval_of_a_mean_lies_within_its_values_and_needs_three():
    low, high = mean_interval([[0.5, 0.7, 0.9]]) or (0, 0)
    assert 0.5 <= low < 0.7 < high <= 0.9
    assert mean_interval([[0.5, 0.7]]) is None
    assert mean_interval([]) is None


def test_tasks_are_resampled_apart():
    # The two tasks differ and their seeds do not: nothing varies.
    assert mean_interval([[0.5] * 3, [0.9] * 3]) == (pytest.approx(0.7), pytest.approx(0.7))
