"""The combiner: its formula, led by the most alarmed member, and never saturating."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.detectors.soft_maximum import SoftMaximum

TRUSTED = np.random.default_rng(0).normal(size=(300, 4)) * [1, 10, 0.1, 1] + [0, 5, -3, 100]
finite = st.floats(allow_nan=False, allow_infinity=False)


def surprise(x: np.ndarray) -> np.ndarray:
    """In nats, of columns of TRUSTED."""
    threshold = np.quantile(TRUSTED, 0.9, axis=0)
    mean_excess = np.array([(c[c > u] - u).mean() for c, u in zip(TRUSTED.T, threshold, strict=True)])
    t = (x - threshold) / mean_excess
    return np.where(t > 0, np.log(10) + t, np.log(10) * np.exp(np.minimum(t, 0) / np.log(10)))


def test_the_score_is_the_formula():
    x = TRUSTED[:50] * 1.1
    expected = -np.log(np.exp(surprise(x)).mean(axis=1))
    np.testing.assert_allclose(SoftMaximum().fit(TRUSTED).score_samples(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.01, 0.002])
def test_the_surprise_of_a_rare_value_is_minus_the_logarithm_of_its_share(share):
    rng = np.random.default_rng(1)
    heavy, light = rng.exponential(size=(2, 20_000)) * [[1.0], [7.0]]
    rows = np.c_[heavy, light]
    values = np.quantile(rows, 1 - share, axis=0)
    for j in range(2):
        alone = SoftMaximum().fit(rows[:, [j]]).score_samples([[values[j]]])
        assert -alone == pytest.approx(-np.log(share), rel=0.05)


def test_a_member_that_sees_nothing_cannot_outvote_one_that_is_alarmed():
    detector, row = SoftMaximum().fit(TRUSTED), np.median(TRUSTED, axis=0)
    alarmed, calm = row.copy(), row - [9, 90, 0.9, 0]
    alarmed[3] += 90
    calm[3] += 90
    assert detector.score_samples([alarmed, calm]) == pytest.approx([-surprise(alarmed)[3] + np.log(4)] * 2)


def test_members_of_different_units_count_alike():
    units = np.array([1e-6, 1.0, 1e6, 30.0])
    plain, scaled = SoftMaximum().fit(TRUSTED), SoftMaximum().fit(TRUSTED * units)
    np.testing.assert_allclose(scaled.score_samples(TRUSTED * units), plain.score_samples(TRUSTED), rtol=1e-9)


@given(st.floats(1, 1e290))
def test_far_away_the_score_goes_on_falling(distance):
    row = np.median(TRUSTED, axis=0)
    near, far = SoftMaximum().fit(TRUSTED).score_samples([row + [distance, 0, 0, 0], row + [distance * 1.001, 0, 0, 0]])
    assert far < near


@given(st.lists(finite, min_size=4, max_size=4))
def test_any_finite_row_has_a_finite_score(row):
    assert np.isfinite(SoftMaximum().fit(TRUSTED).score_samples([row])).all()


@given(st.lists(st.lists(finite, min_size=2, max_size=2), min_size=2, max_size=8))
def test_any_finite_trusted_rows_give_finite_scores(rows):
    assert np.isfinite(SoftMaximum().fit(rows).score_samples([*rows, [1e308, -1e308], [0, 0]])).all()


def test_a_member_that_was_constant_speaks_when_it_moves():
    constant = np.c_[TRUSTED[:, 0], np.full(300, 7.0)]
    still, moved = SoftMaximum().fit(constant).score_samples([[0.0, 7.0], [0.0, 7.1]])
    assert moved < still - 10


def test_one_member_alone_is_only_brought_to_nats():
    x = TRUSTED[:, :1]
    np.testing.assert_allclose(SoftMaximum().fit(x).score_samples(x), -surprise(TRUSTED)[:, 0], atol=1e-9)
