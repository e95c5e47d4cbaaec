"""What every registered detector keeps, its table being the list."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from madpipe.detectors.detector import Detector
from madpipe.detectors.storage import load, save
from madpipe.registry import DETECTORS

each_detector = pytest.mark.parametrize("name", DETECTORS)
BLIND = {
    "surprise",  # a far value is merely active, as most trusted ones are: nothing there is less likely
    "topological_evolution",  # without a predicted class, the nearest row is always of the same one
}


def small(name: str) -> Detector:
    """A detector with its defaults, but a forest of ten trees: growing a hundred for each check takes a minute."""
    detector: Detector = DETECTORS.load(name)()
    return detector.set_params(n_estimators=10) if "n_estimators" in detector.get_params() else detector


def rows(row_count: int, column_count: int, seed: int = 0) -> np.ndarray:
    """Non-negative, as statistics and importances are; float32, as patterns are."""
    return np.random.default_rng(seed).gamma(2.0, size=(row_count, column_count)).astype(np.float32)


def expected_failures(estimator: Detector) -> dict[str, str]:
    checks = ("check_outliers_fit_predict", "check_outliers_train")
    return dict.fromkeys(checks, "one class, one score") if type(estimator).__name__ == "TopologicalEvolution" else {}


@parametrize_with_checks([small(name) for name in DETECTORS], expected_failed_checks=expected_failures)
def test_scikit_learns_own_checks_hold(estimator, check):
    check(estimator)


@each_detector
def test_a_saved_detector_scores_bit_for_bit_as_before(name, tmp_path):
    detector, inputs = small(name).fit(rows(60, 7)), rows(40, 7, seed=1)
    save(detector, tmp_path / "detector.skops")
    loaded = load(tmp_path / "detector.skops")
    assert type(loaded) is type(detector)
    assert loaded.get_params() == detector.get_params()
    assert loaded.offset_ == detector.offset_
    np.testing.assert_array_equal(loaded.score_samples(inputs), detector.score_samples(inputs))


@each_detector
def test_a_row_scores_alike_alone_and_in_company(name):
    detector, inputs = small(name).fit(rows(80, 9)), rows(50, 9, seed=1)
    together = detector.score_samples(inputs)
    alone = np.concatenate([detector.score_samples(row[None]) for row in inputs])
    np.testing.assert_allclose(alone, together, rtol=1e-9)


@each_detector
def test_a_row_keeps_its_score_when_the_order_changes(name):
    detector, inputs = small(name).fit(rows(80, 9)), rows(50, 9, seed=1)
    np.testing.assert_allclose(detector.score_samples(inputs[::-1])[::-1], detector.score_samples(inputs), rtol=1e-9)


@each_detector
def test_fitting_twice_gives_the_same_bits(name):
    inputs = rows(50, 6, seed=1)
    first, second = (clone(small(name)).fit(rows(80, 6)).score_samples(inputs) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_detector
def test_twenty_rows_and_more_columns_than_rows_are_enough(name):
    scores = small(name).fit(rows(20, 70)).score_samples(rows(30, 70, seed=1))
    assert np.isfinite(scores).all()


@each_detector
def test_columns_that_never_varied_do_no_harm(name):
    trusted, inputs = rows(60, 5), rows(30, 5, seed=1)
    trusted[:, 2] = inputs[:, 2] = 0.0
    assert np.isfinite(small(name).fit(trusted).score_samples(inputs)).all()


@each_detector
def test_trusted_rows_that_are_all_alike_can_be_fitted(name):
    detector = small(name).fit(np.ones((30, 4)))
    assert np.isfinite(detector.score_samples(rows(10, 4))).all()


@each_detector
def test_far_from_the_trusted_rows_is_less_normal(name):
    trusted = rows(200, 5)
    detector = small(name).fit(trusted)
    near, far = detector.score_samples(rows(20, 5, seed=1)), detector.score_samples(trusted[:20] + 1000.0)
    assert far.max() < np.median(near) or name in BLIND


@each_detector
def test_the_largest_float32_values_give_finite_scores(name):
    detector = small(name).fit(rows(60, 5))
    extreme = np.full((1, 5), np.finfo(np.float32).max)
    assert np.isfinite(detector.score_samples(extreme)).all()


@each_detector
def test_its_docstring_says_what_the_score_is(name):
    assert "score = " in (DETECTORS.load(name).__doc__ or "")


@each_detector
def test_no_saved_state_needs_more_than_detectors_on_the_list(name, tmp_path: Path):
    from skops.io import get_untrusted_types

    save(small(name).fit(rows(60, 4)), tmp_path / "detector.skops")
    found = set(get_untrusted_types(file=tmp_path / "detector.skops"))
    assert DETECTORS[name].replace(":", ".") in found <= {entry.replace(":", ".") for entry in DETECTORS.values()}
