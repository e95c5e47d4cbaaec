"""Two pipelines on the same inputs: counts by hand, ranks, the furthest p-values, and paired intervals that cover."""

import numpy as np
import pytest

from madpipe.errors import TooFewRowsError
from madpipe.evaluation.agreement import flag_agreement, most_different, rank_correlation, separation
from madpipe.evaluation.intervals import pair_share, paired_interval


def test_flags_are_counted_in_four_kinds():
    first, second = [1, 1, 0, 0, 0], [1, 0, 1, 0, 0]
    expected = {"both": 1, "only_first": 1, "only_second": 1, "neither": 2, "agreement": 0.6}
    assert flag_agreement(first, second) == expected


def test_scores_of_one_order_correlate_fully_whatever_their_scale():
    assert rank_correlation([1, 2, 3], [1, 20, 300]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_a_constant_score_has_no_rank_correlation():
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_rows_differ_by_the_ratio_of_their_p_values():
    # ratios 1, 5, 50, 2: from 0.5 to 0.01 is further than from 0.1 to 0.02
    first, second = [0.3, 0.1, 0.01, 0.8], [0.3, 0.02, 0.5, 0.4]
    assert most_different(first, second, 10).tolist() == [2, 1, 3]
    assert most_different(first, second, 1).tolist() == [2]


def test_the_better_one_is_told_with_an_interval_that_leaves_nothing_to_doubt():
    labels = np.arange(200) >= 100
    blind, sharp = np.tile(np.arange(100.0), 2), labels + np.linspace(0, 0.5, 200)
    figures = separation(blind, sharp, labels)
    assert figures["auroc"]["first"] == pytest.approx(0.5)
    assert figures["auroc"]["second"] == 1
    assert figures["auroc"]["difference"] == pytest.approx(0.5)
    low, high = figures["auroc"]["difference_interval"]
    assert 0.4 < low < 0.5 < high < 0.6
    assert figures["tpr_at_1"]["second"] == 1


def test_the_same_scores_differ_by_nothing_in_every_resample():
    scores, labels = np.random.default_rng(0).random(50), np.arange(50) >= 40
    assert paired_interval(scores, scores, labels, pair_share) == (0, 0)


def test_a_paired_interval_is_narrower_than_that_of_scores_in_another_order():
    generator = np.random.default_rng(1)
    labels = np.arange(300) >= 200
    first = labels + generator.standard_normal(300)
    second = first + 0.1 * generator.standard_normal(300)  # nearly the same detector
    shuffled = np.concatenate([generator.permutation(second[:200]), generator.permutation(second[200:])])

    def width(other):
        low, high = paired_interval(first, other, labels, pair_share)
        return high - low

    assert width(second) < 0.5 * width(shuffled)


def test_a_paired_interval_covers_the_true_difference_about_as_often_as_it_says():
    # AUROC of N(1, 1) against N(0, 1) is Phi(1 / sqrt 2) = 0.7602 for both detectors, so the difference is 0
    generator, covered = np.random.default_rng(2), 0
    labels = np.arange(160) >= 80
    for _ in range(100):
        shared = generator.standard_normal(160)
        first, second = (labels + 0.8 * shared + 0.6 * generator.standard_normal(160) for _ in range(2))
        low, high = paired_interval(first, second, labels, pair_share, resamples=200)
        covered += low <= 0 <= high
    assert 87 <= covered <= 100  # 95 expected; P(fewer than 87 of 100) < 0.001


def test_one_kind_of_input_is_too_few():
    with pytest.raises(TooFewRowsError):
        paired_interval([1, 2], [1, 2], [False, False], pair_share)
