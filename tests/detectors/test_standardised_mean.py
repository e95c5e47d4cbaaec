"""The standardised mean: its formula, and its behaviour far away, at zero and on constant columns."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from madpipe.detectors.standardised_mean import StandardisedMean

TRUSTED = np.random.default_rng(0).gamma(2.0, size=(200, 3))


def test_the_score_is_the_formula():
    x = np.random.default_rng(1).gamma(2.0, size=(30, 3))
    soft = 1e-3 * np.median(TRUSTED, axis=0)
    t, trusted = np.log(x + soft), np.log(TRUSTED + soft)
    median, q95 = np.median(trusted, axis=0), np.quantile(trusted, 0.95, axis=0)
    expected = -(1.645 * (t - median) / (q95 - median)).mean(axis=1)
    np.testing.assert_allclose(StandardisedMean().fit(TRUSTED).score_samples(x), expected, rtol=1e-12)


def test_the_95_per_cent_quantile_of_one_column_scores_minus_1_645():
    column = np.arange(1.0, 102.0)[:, None]  # 101 rows: its 95 % quantile is the row of value 96
    assert np.isclose(StandardisedMean().fit(column).score_samples([[96.0]])[0], -1.645)


@given(st.floats(1e-6, 1e6))
def test_the_unit_of_a_column_does_not_matter(unit):
    plain, scaled = StandardisedMean().fit(TRUSTED), StandardisedMean().fit(TRUSTED * unit)
    np.testing.assert_allclose(scaled.score_samples(TRUSTED * unit), plain.score_samples(TRUSTED), rtol=1e-6, atol=1e-9)


@given(st.floats(0, 1e300), st.floats(1.0001, 1e6))
def test_worse_is_always_less_normal(value, factor):
    detector = StandardisedMean().fit(TRUSTED[:, :1])
    near, far = detector.score_samples([[value], [value * factor + 1e-6]])
    assert far < near


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_any_finite_row_has_a_finite_score(row):
    assert np.isfinite(StandardisedMean().fit(TRUSTED).score_samples([row])).all()


@given(st.lists(st.floats(0, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_any_finite_trusted_rows_give_finite_scores(column):
    rows = np.array(column)[:, None]
    assert np.isfinite(StandardisedMean().fit(rows).score_samples([[0.0], [1.0], [1e308]])).all()


def test_a_statistic_that_was_constant_speaks_when_it_moves():
    detector = StandardisedMean().fit(np.full((50, 1), 2.0))
    same, noise, moved = detector.score_samples([[2.0], [2.0 * (1 + 1e-7)], [2.1]])
    assert same == 0
    assert abs(noise) < 0.01  # what float32 rounding does is no alarm
    assert moved < -10


def test_a_statistic_that_was_zero_speaks_when_it_is_not():
    assert StandardisedMean().fit(np.zeros((50, 1))).score_samples([[1e-3]])[0] < -10
