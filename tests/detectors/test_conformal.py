"""P-values: honest for any scores in any number, ties counted against flagging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.detectors.conformal import cross_p_values, minimum_rows, p_values, round_significant
from madpipe.errors import ConfigError, NonFiniteError, TooFewRowsError

# Whole numbers among them, so that ties are common.
scores_with_ties = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)), min_size=2, max_size=40)
levels = st.floats(0.001, 0.999)


@given(scores=scores_with_ties, alpha=levels)
def test_whichever_row_is_the_new_one_at_most_a_share_alpha_is_flagged(scores, alpha):
    # Exchangeable rows: each is equally likely to be the new one, so the mean over that choice is P(p <= alpha).
    flagged = [p_values(score, scores[:i] + scores[i + 1 :]) <= alpha for i, score in enumerate(scores)]
    assert np.mean(flagged) <= alpha + 1e-12


@given(calibration=scores_with_ties, alpha=levels)
def test_no_p_value_is_below_one_over_n_plus_one_or_above_one(calibration, alpha):
    p = p_values([-np.inf, *calibration, np.inf], calibration)
    assert p.min() == 1 / (len(calibration) + 1)
    assert p.max() == 1


def test_p_values_are_uniform_over_many_calibration_sets():
    # 20,000 sets of 19 rows and a new one: P(p <= k / 20) = k / 20; standard error at most 0.0036.
    draws = np.random.default_rng(0).normal(size=(20_000, 20))
    p = (1 + (draws[:, 1:] <= draws[:, :1]).sum(axis=1)) / 20
    ours = np.array([p_values(row[0], row[1:]) for row in draws[:500]])
    np.testing.assert_array_equal(ours, p[:500])
    for k in range(1, 20):
        assert abs(np.mean(p <= k / 20) - k / 20) < 0.015


def test_low_scores_get_small_p_values():
    # Calibration 1, 2, 3: below all (1 + 0) / 4, between (1 + 1) / 4, above all (1 + 3) / 4.
    np.testing.assert_array_equal(p_values([0.0, 1.5, 9.0], [3.0, 1.0, 2.0]), [0.25, 0.5, 1.0])


def test_a_tie_counts_against_flagging():
    # The calibration row that equals the score is counted: (1 + 1) / 3 and not (1 + 0) / 3.
    assert p_values(1.0, [1.0, 2.0]) == 2 / 3


def test_scores_that_agree_to_six_digits_are_tied():
    assert p_values(1.00000001, [1.0]) == p_values(0.99999999, [1.0]) == 1.0


def test_scores_may_have_any_shape():
    assert p_values(np.zeros((2, 3)), [1.0]).shape == (2, 3)


def test_a_thousand_rows_are_ranked_like_one_by_one():
    generator = np.random.default_rng(1)
    scores, calibration = generator.normal(size=1000), generator.normal(size=300)
    expected = [(1 + np.sum(round_significant(calibration) <= round_significant(s))) / 301 for s in scores]
    np.testing.assert_array_equal(p_values(scores, calibration), expected)


def test_infinite_scores_keep_their_order():
    np.testing.assert_array_equal(p_values([-np.inf, np.inf], [0.0, -np.inf, np.inf]), [0.5, 1.0])


@pytest.mark.parametrize(("scores", "calibration"), [([np.nan], [1.0]), ([1.0], [np.nan, 2.0])])
def test_a_nan_has_no_rank(scores, calibration):
    with pytest.raises(NonFiniteError, match="NaN"):
        p_values(scores, calibration)


def test_without_calibration_rows_there_is_no_p_value():
    with pytest.raises(TooFewRowsError):
        p_values([1.0], [])


def test_one_fold_alone_is_the_plain_p_value():
    scores, calibration = [0.0, 2.5], [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(cross_p_values([scores], [calibration]), p_values(scores, calibration))


def test_each_fold_ranks_its_own_score_among_its_own_rows():
    # Fold 1: 0.5 is above none of {1, 2}; fold 2: 5 is above {3, 4} but not 6: (1 + 0 + 2) / (5 + 1).
    assert cross_p_values([[0.5], [5.0]], [[1.0, 2.0], [3.0, 4.0, 6.0]]) == 3 / 6


def cross_fit(rows: np.ndarray, folds: int) -> float:
    """The p-value of the last row, by folds over the others; the score is minus the distance to the mean fitted on."""
    trusted, new = rows[:-1], rows[-1]
    parts = np.array_split(np.arange(len(trusted)), folds)
    centres = [np.delete(trusted, part, axis=0).mean(axis=0) for part in parts]
    calibrations = [-np.linalg.norm(trusted[part] - c, axis=1) for part, c in zip(parts, centres, strict=True)]
    return float(cross_p_values([[-np.linalg.norm(new - c)] for c in centres], calibrations)[0])


@given(
    row_count=st.integers(20, 40),
    folds=st.integers(2, 10),
    columns=st.integers(1, 30),
    heavy=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_cross_fit_p_values_keep_twice_the_level(row_count, folds, columns, heavy, seed):
    # 100 draws each: P(p <= 0.1) <= 0.2 leaves 0.2 + 4 standard errors of 0.04.
    generator = np.random.default_rng(seed)
    draw = generator.standard_cauchy if heavy else generator.normal
    p = np.array([cross_fit(draw(size=(row_count + 1, columns)), folds) for _ in range(100)])
    assert np.mean(p <= 0.1) <= 0.36


def test_cross_fit_p_values_lie_near_the_level_itself():
    # 2,000 draws of 40 rows in 5 folds: the standard error at 0.05 is 0.005.
    generator = np.random.default_rng(0)
    p = np.array([cross_fit(generator.normal(size=(41, 5)), 5) for _ in range(2000)])
    assert 0.02 < np.mean(p <= 0.05) < 0.07


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_agrees_with_printing(value):
    if abs(value) > 1e-290:
        assert round_significant(value) == pytest.approx(float(f"{value:.5e}"), rel=1.1e-5)
        assert round_significant(value) == pytest.approx(value, rel=5.1e-6)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=30))
def test_rounding_never_turns_an_order_round(values):
    rounded = round_significant(np.sort(values))
    assert (rounded[1:] >= rounded[:-1]).all()


@given(st.lists(st.floats(allow_nan=False), max_size=30))
def test_rounding_twice_is_rounding_once(values):
    once = round_significant(values)
    np.testing.assert_array_equal(round_significant(once), once)


@given(st.floats(1e-200, 1e200), st.integers(-5, 5))
def test_almost_equal_scores_round_to_the_same_bits_beside_a_power_of_ten(scale, steps):
    power = 10.0 ** np.floor(np.log10(scale))
    assert round_significant(power * (1 + steps * 1e-14)) == round_significant(power)


@pytest.mark.parametrize(("alpha", "rows"), [(0.01, 99), (0.05, 19), (0.001, 999), (0.5, 1), (0.07, 14)])
def test_the_fewest_rows_for_a_level(alpha, rows):
    assert minimum_rows(alpha) == rows


@given(st.floats(1e-6, 0.999))
def test_the_fewest_rows_are_enough_and_one_less_is_not(alpha):
    rows = minimum_rows(alpha)
    assert 1 / (rows + 1) <= alpha < 1 / rows or rows == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0])
def test_a_level_lies_between_zero_and_one(alpha):
    with pytest.raises(ConfigError):
        minimum_rows(alpha)
