"""The union of several scores: led by the most alarmed one, with p-values that keep their word."""

import numpy as np
import pytest

from madpipe.detectors.conformal import p_values
from madpipe.detectors.union import union_of_scores
from madpipe.errors import NonFiniteError


def draw(count: int, rows: int, seed: int) -> np.ndarray:
    """`count` dependent scores of normal rows."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, rows)) + generator.normal(size=rows)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_p_values_of_normal_rows_are_honest_however_many_scores_there_are(count):
    # P(p <= 0.1) = 5 / 50 over draws of calibration and new rows; 0.03 are at least two standard errors of 300 draws.
    rates = []
    for seed in range(300):
        reference, scores = draw(count, 30, seed + 1000), draw(count, 52, seed)
        rates.append(np.mean(union_of_scores(reference, scores[:, :49], scores[:, 49:])[1] <= 0.1))
    assert np.mean(rates) == pytest.approx(0.1, abs=0.03)


def test_the_smallest_of_forty_p_values_alone_would_not_be():
    scores = draw(40, 299, 0)
    smallest = np.min([p_values(-row[99:], -row[:99]) for row in scores], axis=0)
    assert np.mean(smallest <= 0.1) > 0.4


def test_of_one_score_it_is_that_scores_own_p_value():
    scores = draw(1, 300, 1)
    _, p = union_of_scores(draw(1, 30, 2), scores[:, :99], scores[:, 99:])
    np.testing.assert_allclose(p, p_values(-scores[0, 99:], -scores[0, :99]))


def test_one_alarmed_score_is_enough():
    calibration, new = draw(10, 99, 1), draw(10, 100, 2)
    new[3, :50] += 20
    scores, p = union_of_scores(draw(10, 30, 3), calibration, new)
    assert scores[:50].min() > scores[50:].max()
    assert (p[:50] == 0.01).all()


def test_between_rows_beyond_all_calibration_rows_the_larger_standardised_score_decides():
    # Both lie above every calibration row of one score, 3 and 30 units above where 1.645 units are q95 - median.
    reference, calibration = np.tile(np.linspace(-1, 1, 41), (2, 1)), np.tile(np.linspace(-1, 1, 20), (2, 1))
    (near, far), p = union_of_scores(reference, calibration, [[3.0, 0.0], [0.0, 30.0]])
    assert far > near
    assert p.tolist() == [1 / 21, 1 / 21]


def test_a_score_that_never_varies_on_reference_rows_breaks_no_tie():
    reference, calibration = np.array([np.zeros(30), np.linspace(0, 1, 30)]), draw(2, 20, 0)
    (silent, alarmed), _ = union_of_scores(reference, calibration, [[50.0, -9.0], [-9.0, 50.0]])
    assert alarmed > silent


def test_units_of_a_score_do_not_matter():
    parts = draw(4, 30, 0), draw(4, 99, 1), draw(4, 50, 2)
    units = np.array([[1e-6], [1.0], [1e3], [1e9]])
    for plain, scaled in zip(union_of_scores(*parts), union_of_scores(*(units * p for p in parts)), strict=True):
        np.testing.assert_allclose(scaled, plain, rtol=1e-4)


def test_a_row_has_the_same_result_alone_and_in_company():
    reference, calibration, new = draw(4, 30, 0), draw(4, 99, 1), draw(4, 50, 2)
    together = union_of_scores(reference, calibration, new)
    alone = [union_of_scores(reference, calibration, new[:, i : i + 1]) for i in range(50)]
    for k in (0, 1):
        np.testing.assert_array_equal(np.concatenate([each[k] for each in alone]), together[k])


def test_the_order_of_calibration_rows_does_not_matter():
    reference, calibration, new = draw(4, 30, 0), draw(4, 99, 1), draw(4, 50, 2)
    np.testing.assert_array_equal(
        union_of_scores(reference, calibration[:, ::-1], new)[1], union_of_scores(reference, calibration, new)[1]
    )


def test_a_score_that_is_nan_is_refused():
    calibration = draw(2, 20, 0)
    calibration[0, 3] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        union_of_scores(draw(2, 20, 1), calibration, draw(2, 5, 2))


def test_an_infinite_score_is_as_good_as_any_other_large_one():
    rng = np.random.default_rng(0)
    reference, ranked, new = rng.normal(size=(2, 30)), rng.normal(size=(2, 99)), rng.normal(size=(2, 3))
    new[0, 0] = np.inf
    scores, p_values = union_of_scores(reference, ranked, new)
    assert np.isfinite(scores).all()
    assert p_values[0] <= 2 / 100
