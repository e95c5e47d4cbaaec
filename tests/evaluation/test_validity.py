"""Validity: honest p-values pass, those of a detector ranked on its own fit rows do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom

from madpipe.errors import TooFewRowsError
from madpipe.evaluation.intervals import realised_rate_interval
from madpipe.evaluation.validity import false_positive_law, holm, pooled_counts, pooled_rate, uniformity


def honest(generator: np.random.Generator, calibration: int, test: int) -> np.ndarray:
    trusted, new = np.sort(generator.random(calibration)), generator.random(test)
    return (1 + np.searchsorted(trusted, new, side="right")) / (calibration + 1)


def test_the_pooled_rate_is_all_false_positives_over_all_normal_inputs():
    pooled = pooled_rate([[0.01, 0.5, 0.5], [0.04]], [99, 99], 0.05)
    assert pooled.realised == 2 / 4
    assert pooled.test_size == 4


def test_one_run_alone_has_the_interval_of_one_run():
    assert pooled_rate([np.ones(200)], [99], 0.05).interval == realised_rate_interval(0.05, 99, 200)


def test_the_law_sums_to_one_and_has_the_nominal_mean():
    law = false_positive_law(0.05, 99, 200)  # l / (n + 1) = 5 / 100
    assert law.sum() == pytest.approx(1)
    assert law @ np.arange(201) == pytest.approx(200 * 0.05)


def test_the_chance_of_an_excess_is_the_upper_tail():
    pooled = pooled_rate([np.r_[np.full(9, 0.01), np.ones(91)]], [99], 0.05)
    assert pooled.excess_p_value == pytest.approx(betabinom(100, 5, 95).sf(8))


def test_the_chance_of_a_deficit_is_the_lower_tail_and_two_sides_are_twice_the_smaller_one():
    pooled = pooled_counts([2], [100], [99], 0.05)
    assert pooled.deficit_p_value == pytest.approx(betabinom(100, 5, 95).cdf(2))
    assert pooled.two_sided_p_value == pytest.approx(2 * betabinom(100, 5, 95).cdf(2))
    middle = pooled_counts([5], [100], [99], 0.05)
    assert middle.two_sided_p_value == min(1.0, 2 * middle.deficit_p_value)


def test_counts_pool_as_the_p_values_that_they_count_do():
    p_values = [[0.01, 0.5, 0.5], [0.04]]
    assert pooled_counts([1, 1], [3, 1], [99, 99], 0.05) == pooled_rate(p_values, [99, 99], 0.05)


def test_no_false_positive_is_no_excess():
    assert pooled_rate([np.ones(50)], [99], 0.05).excess_p_value == 1


def test_honest_runs_are_rarely_called_dishonest():
    # 300 pools of 3 runs: the excess is called at 5 % in at most 5 % of them (standard error 1.3 %).
    generator = np.random.default_rng(0)
    pools = [pooled_rate([honest(generator, 99, 100) for _ in range(3)], [99] * 3, 0.05) for _ in range(300)]
    assert np.mean([pool.excess_p_value <= 0.05 for pool in pools]) <= 0.09
    assert np.mean([pool.within for pool in pools]) >= 0.9


def test_p_values_half_their_honest_size_are_found_out():
    generator = np.random.default_rng(0)
    pooled = pooled_rate([honest(generator, 199, 300) / 2 for _ in range(5)], [199] * 5, 0.05)
    assert pooled.excess_p_value < 0.01
    assert not pooled.within


def test_runs_with_no_rank_to_reject_never_reject():
    assert pooled_rate([np.ones(50)], [50], 0.01).interval == (0.0, 0.0)


def test_no_normal_input_is_refused():
    with pytest.raises(TooFewRowsError):
        pooled_rate([[]], [99], 0.05)


def test_holm_by_hand():
    # Sorted .01, .02, .04: times 3, 2, 1 = .03, .04, .04.
    assert holm({"a": 0.04, "b": 0.01, "c": 0.02}) == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.04})


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_nor_turns_an_order_round(values):
    p_values = {f"task-{i}": p for i, p in enumerate(values)}
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    assert all(p <= adjusted[name] <= 1 for name, p in p_values.items())
    order = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in order] == sorted(adjusted.values())


def test_uniformity_of_honest_p_values_is_itself_honest():
    # 400 tests at 10 %: the share of small p-values is at most 0.1 (standard error 0.015).
    generator = np.random.default_rng(0)
    p = [uniformity(honest(generator, 60, 80), 60).p_value for _ in range(400)]
    assert np.mean(np.array(p) <= 0.1) <= 0.15


def test_p_values_that_are_too_small_are_found_on_their_side():
    p = honest(np.random.default_rng(0), 199, 300) ** 2
    p = np.ceil(p * 200) / 200
    assert uniformity(p, 199, "too small").p_value < 1e-6
    assert uniformity(p, 199, "too large").p_value > 0.5


def test_the_statistic_is_the_largest_gap_between_the_shares():
    # Four calibration rows, both test rows below all of them: the gap is 1.
    assert uniformity([0.2, 0.2], 4).statistic == 1


def test_many_rows_are_judged_quickly():
    assert uniformity(honest(np.random.default_rng(0), 5000, 5000), 5000).p_value > 1e-3


def test_nothing_to_judge_is_refused():
    with pytest.raises(TooFewRowsError):
        uniformity([], 99)
