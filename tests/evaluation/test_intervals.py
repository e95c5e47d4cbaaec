"""Intervals: the exact law of a realised rate against simulation, and the bootstrap's coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.errors import ConfigError, TooFewRowsError
from madpipe.evaluation.intervals import auroc_interval, realised_rate_interval, rejected_ranks
from madpipe.evaluation.metrics import auroc


@pytest.mark.parametrize(
    ("alpha", "rows", "ranks"),
    [(0.05, 99, 5), (0.01, 99, 1), (0.01, 98, 0), (0.29, 99, 29), (0.07, 99, 7), (0.05, 19, 1)],
)
def test_rejected_ranks_are_the_floor_without_rounding_accidents(alpha, rows, ranks):
    assert rejected_ranks(alpha, rows) == ranks


@given(st.integers(1, 500), st.integers(1, 999))
def test_rejected_ranks_agree_with_the_p_values_themselves(rows, thousandths):
    alpha = thousandths / 1000
    possible = np.arange(1, rows + 2) / (rows + 1)
    assert rejected_ranks(alpha, rows) == np.sum(possible <= alpha)


@pytest.mark.parametrize(("alpha", "calibration", "test"), [(0.05, 99, 200), (0.01, 250, 50), (0.05, 40, 500)])
def test_honest_p_values_lie_inside_about_95_per_cent_of_the_time(alpha, calibration, test):
    generator = np.random.default_rng(0)
    low, high = realised_rate_interval(alpha, calibration, test)
    inside = 0
    for _ in range(1000):
        trusted, new = np.sort(generator.random(calibration)), generator.random(test)
        rate = np.mean((1 + np.searchsorted(trusted, new, side="right")) / (calibration + 1) <= alpha)
        inside += low <= rate <= high
    assert inside >= 930  # discrete: never less than 95 % but for chance (standard error 7)


def test_more_rows_of_either_kind_narrow_it():
    def width(calibration, test):
        low, high = realised_rate_interval(0.05, calibration, test)
        return high - low

    assert width(99, 200) > width(999, 200)
    assert width(99, 200) > width(99, 2000)


def test_with_endless_calibration_rows_it_is_the_binomial_one():
    # Binomial(100, 0.05): P(X <= 1) = 0.037 > 0.025 > P(X = 0); P(X <= 9) = 0.972 < 0.975 <= P(X <= 10).
    assert realised_rate_interval(0.05, 10**7, 100) == (0.01, 0.1)


def test_too_few_calibration_rows_flag_nothing():
    assert realised_rate_interval(0.01, 50, 1000) == (0.0, 0.0)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_level_outside_is_refused(alpha):
    with pytest.raises(ConfigError):
        realised_rate_interval(alpha, 99, 100)


def test_no_rows_are_refused():
    with pytest.raises(TooFewRowsError):
        realised_rate_interval(0.05, 99, 0)


def test_the_bootstrap_interval_holds_the_estimate_and_is_repeatable():
    generator = np.random.default_rng(0)
    labels = np.arange(200) < 80
    scores = generator.normal(size=200) + labels
    low, high = auroc_interval(scores, labels, resamples=300)
    assert low < auroc(scores, labels) < high
    assert (low, high) == auroc_interval(scores, labels, resamples=300)


def test_the_bootstrap_interval_covers_the_truth():
    # Two normal clouds one deviation apart: AUROC = Phi(1 / sqrt 2) = 0.7602. 100 intervals: standard error 2.
    generator, labels, covered = np.random.default_rng(1), np.arange(120) < 60, 0
    for seed in range(100):
        low, high = auroc_interval(generator.normal(size=120) + labels, labels, resamples=200, seed=seed)
        covered += low <= 0.7602 <= high
    assert covered >= 85


def test_a_perfect_separation_has_no_spread():
    assert auroc_interval([0, 1, 2, 7, 8, 9], [0, 0, 0, 1, 1, 1], resamples=50) == (1.0, 1.0)


def test_the_bootstrap_counts_ties_half():
    assert auroc_interval([1.0] * 6, [0, 0, 0, 1, 1, 1], resamples=50) == (0.5, 0.5)


def test_the_bootstrap_needs_both_kinds():
    with pytest.raises(TooFewRowsError):
        auroc_interval([1.0, 2.0], [True, True])
