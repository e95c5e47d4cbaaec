"""Metrics: small cases worked by hand, and the exact set of operating metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.errors import NonFiniteError, ShapeError, TooFewRowsError
from madpipe.evaluation.metrics import auroc, average_precision, operating_metrics, tpr_at

LABELS = np.array([False, False, False, True, True])


def test_auroc_counts_the_pairs_in_order_and_half_the_ties():
    # Pairs: 3 > 1, 2, 3 -> 1 + 1 + 1/2; 2 > 1, 2, 3 -> 1 + 1/2 + 0: 4 of 6.
    assert auroc([1, 2, 3, 3, 2], LABELS) == pytest.approx(4 / 6)


def test_a_higher_score_means_worse():
    assert auroc([0, 1, 2, 8, 9], LABELS) == 1
    assert auroc([8, 9, 7, 1, 0], LABELS) == 0


@given(st.lists(st.integers(-5, 5), min_size=5, max_size=5))
def test_turning_the_sign_turns_auroc_round(scores):
    assert auroc(scores, LABELS) == pytest.approx(1 - auroc(np.negative(scores), LABELS))


def test_average_precision_by_hand():
    # In falling order: anomaly (1/1 at recall 1/2), normal, anomaly (2/3 at recall 1): (1 + 2/3) / 2.
    assert average_precision([1, 2, 4, 5, 3], LABELS) == pytest.approx(5 / 6)


def test_tpr_is_the_share_strictly_above_the_quantile_of_the_normal_ones():
    normal = np.arange(101.0)  # its 95 % quantile is 95, its 99 % quantile 99
    scores, labels = np.r_[normal, 95.0, 95.5, 99.5, 200.0], np.arange(105) >= 101
    assert tpr_at(scores, labels, 0.05) == 3 / 4
    assert tpr_at(scores, labels, 0.01) == 2 / 4


def test_a_tie_with_the_threshold_is_no_detection():
    assert tpr_at([1, 1, 1, 1, 1], LABELS, 0.05) == 0


def test_operating_metrics_are_exactly_these():
    generator = np.random.default_rng(0)
    metrics = operating_metrics(generator.normal(size=50), generator.random(50), np.arange(50) < 20, 99)
    assert list(metrics) == [
        "auroc",
        "average_precision",
        "tpr_at_1",
        "fpr_at_nominal_1",
        "fpr_at_nominal_1_interval",
        "recall_at_nominal_1",
        "tpr_at_5",
        "fpr_at_nominal_5",
        "fpr_at_nominal_5_interval",
        "recall_at_nominal_5",
    ]


def test_nominal_rates_count_p_values_up_to_and_with_the_level():
    p = [0.01, 0.05, 0.06, 0.01, 0.05]
    metrics = operating_metrics([1, 2, 3, 4, 5], p, LABELS, 99)
    assert metrics["fpr_at_nominal_1"] == pytest.approx(1 / 3)
    assert metrics["fpr_at_nominal_5"] == pytest.approx(2 / 3)
    assert metrics["recall_at_nominal_1"] == pytest.approx(1 / 2)
    assert metrics["recall_at_nominal_5"] == 1


def test_the_interval_is_that_of_the_normal_test_rows():
    # With 9 calibration rows no p-value is below 0.1: a valid detector flags nothing at 5 %.
    metrics = operating_metrics([1, 2, 3, 4, 5], [0.5] * 5, LABELS, 9)
    assert metrics["fpr_at_nominal_5_interval"] == (0.0, 0.0)


@pytest.mark.parametrize("labels", [np.zeros(5, bool), np.ones(5, bool)])
def test_both_kinds_of_input_are_needed(labels):
    with pytest.raises(TooFewRowsError, match="anomalies of 5"):
        auroc(np.arange(5), labels)


def test_a_score_that_is_not_finite_is_named():
    with pytest.raises(NonFiniteError, match="row 3"):
        auroc([0, 1, 2, np.nan, 4], LABELS)


def test_scores_and_labels_of_different_length_are_refused():
    with pytest.raises(ShapeError, match=r"\(4,\) and labels \(5,\)"):
        auroc(np.arange(4), LABELS)
