"""Detectors that know layers and classes: each finds the anomaly it is made for, and agrees with its formula."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.mahalanobis_per_class import MahalanobisPerClass
from madpipe.detectors.mahalanobis_per_site import MahalanobisPerSite
from madpipe.detectors.median_deviation import MedianDeviation
from madpipe.detectors.relative_mahalanobis import RelativeMahalanobis
from madpipe.detectors.sites import PREDICTED_CLASS, SiteDetector, class_means
from madpipe.detectors.storage import load, save
from madpipe.detectors.topological_evolution import TopologicalEvolution
from madpipe.detectors.two_sided_mahalanobis import TwoSidedMahalanobis
from madpipe.patterns import pattern

SITES = ("fc1",) * 6 + ("fc2",) * 4 + (PREDICTED_CLASS,)
DETECTORS = [MahalanobisPerClass, MahalanobisPerSite, MedianDeviation, RelativeMahalanobis]
DETECTORS += [TopologicalEvolution, TwoSidedMahalanobis]
each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.__name__)


def clouds(row_count: int, seed: int, classes: int = 3, spread: float = 1.0) -> np.ndarray:
    """Rows of `classes` clouds, ten apart in both layers; the last column is the class."""
    generator = np.random.default_rng(seed)
    centres = 10 * np.random.default_rng(99).normal(size=(classes, 10))
    labels = generator.integers(classes, size=row_count)
    return np.c_[centres[labels] + spread * generator.normal(size=(row_count, 10)), labels]


def called_another_class(row_count: int, seed: int) -> np.ndarray:
    rows = clouds(row_count, seed)
    rows[:, -1] = (rows[:, -1] + 1) % 3
    return rows


def auroc(detector: SiteDetector, normal: np.ndarray, anomalous: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    return float(roc_auc_score(labels, -detector.score_samples(np.r_[normal, anomalous])))


TRUSTED, NORMAL = clouds(200, 0), clouds(100, 1)
PARTS = (slice(0, 6), slice(6, 10))  # the columns of each site


@each_detector
def test_the_order_of_trusted_rows_leaves_scores(detector):
    plain, turned = (detector(sites=SITES).fit(rows).score_samples(NORMAL) for rows in (TRUSTED, TRUSTED[::-1]))
    np.testing.assert_allclose(turned, plain, rtol=1e-7, atol=1e-9)


@each_detector
def test_a_row_scores_alike_alone_and_in_company(detector):
    fitted = detector(sites=SITES).fit(TRUSTED)
    rows = np.r_[NORMAL[:20], called_another_class(20, 2)]
    alone = np.concatenate([fitted.score_samples(row[None]) for row in rows])
    np.testing.assert_allclose(alone, fitted.score_samples(rows), rtol=1e-9)


@each_detector
def test_a_saved_detector_knows_its_sites(detector, tmp_path):
    fitted = detector(sites=SITES).fit(TRUSTED)
    save(fitted, tmp_path / "detector.skops")
    loaded = load(tmp_path / "detector.skops")
    assert loaded.sites == SITES
    np.testing.assert_array_equal(loaded.score_samples(NORMAL), fitted.score_samples(NORMAL))


@each_detector
def test_a_class_that_trusted_rows_lack_has_a_score(detector):
    rows = NORMAL.copy()
    rows[:, -1] = 7
    assert np.isfinite(detector(sites=SITES).fit(TRUSTED).score_samples(rows)).all()


@each_detector
@pytest.mark.parametrize(("sites", "said"), [(("fc1",) * 3, "names 3 columns"), ((PREDICTED_CLASS,) * 11, "nothing")])
def test_sites_that_do_not_fit_the_columns_are_refused(detector, sites, said):
    with pytest.raises(ValueError, match=said):
        detector(sites=sites).fit(TRUSTED)


@pytest.mark.parametrize("detector", [MahalanobisPerClass, RelativeMahalanobis, TopologicalEvolution, MedianDeviation])
def test_an_ordinary_row_that_is_called_another_class_is_found(detector):
    # Its activations are those of trusted rows: a detector that takes them alone is at chance.
    assert auroc(detector(sites=SITES).fit(TRUSTED), NORMAL, called_another_class(100, 2)) > 0.999
    blind = MahalanobisPerSite(sites=SITES).fit(TRUSTED)
    assert auroc(blind, NORMAL, called_another_class(100, 2)) == pytest.approx(0.5, abs=0.08)


def test_too_normal_a_row_is_found_by_the_two_sided_distance_alone():
    trusted, normal, shrunk = (clouds(200, seed, classes=1, spread=s) for seed, s in ((0, 1.0), (1, 1.0), (2, 0.3)))
    assert auroc(TwoSidedMahalanobis(sites=SITES).fit(trusted), normal, shrunk) > 0.95
    assert auroc(MahalanobisPerSite(sites=SITES).fit(trusted), normal, shrunk) < 0.05
    assert auroc(TwoSidedMahalanobis(sites=SITES).fit(trusted), normal, clouds(200, 2, classes=1, spread=3.0)) > 0.95


def test_more_columns_than_rows_do_not_make_fresh_rows_look_far():
    # A fitted row is near its own mean and covariance: with its plain distances, fresh rows would be 10 spreads away.
    trusted, fresh = np.random.default_rng(0).normal(size=(2, 100, 400))
    assert np.median(-TwoSidedMahalanobis().fit(trusted).score_samples(fresh)) < 2


@pytest.mark.parametrize("shape", [(40, 5), (20, 60)])
def test_a_left_out_distance_is_that_of_a_fit_without_the_row(shape):
    rows = np.random.default_rng(0).normal(size=shape) @ np.diag(np.geomspace(0.1, 10, shape[1]))
    detector = MahalanobisDetector().fit(rows)
    standardised = (rows - detector.mean_) / detector.scale_
    others = np.delete(standardised, 3, axis=0)
    covariance = (1 - detector.shrinkage_) * np.cov(others.T, bias=True) + detector.other_variance_ * np.eye(shape[1])
    away = standardised[3] - others.mean(axis=0)
    expected = np.sqrt(away @ np.linalg.solve(covariance, away))
    assert detector.leave_one_out_distances(rows)[3] == pytest.approx(expected, rel=1e-6)


def test_the_length_of_a_whitened_row_is_its_distance():
    detector = MahalanobisDetector().fit(TRUSTED)
    lengths = np.linalg.norm(detector.whitened(NORMAL), axis=1)
    np.testing.assert_allclose(lengths, -detector.score_samples(NORMAL), rtol=1e-9)


def test_the_distance_per_site_is_the_root_of_the_sum_of_squares():
    fc1, fc2 = (MahalanobisDetector().fit(TRUSTED[:, part]).score_samples(NORMAL[:, part]) for part in PARTS)
    scores = MahalanobisPerSite(sites=SITES).fit(TRUSTED).score_samples(NORMAL)
    np.testing.assert_allclose(scores, -np.hypot(fc1, fc2))


def test_the_distance_per_class_is_from_the_mean_of_the_class():
    rows, row = TRUSTED[:, :10], TRUSTED[TRUSTED[:, -1] == 2][:, :10].mean(axis=0)
    detector = MahalanobisPerClass(sites=SITES).fit(TRUSTED)
    assert detector.score_samples([[*row, 2]])[0] == pytest.approx(0, abs=1e-9)
    assert detector.score_samples([[*rows.mean(axis=0), 2]])[0] < -5


def test_a_relative_distance_subtracts_that_of_all_rows():
    within = MahalanobisPerClass(sites=SITES).fit(TRUSTED).score_samples(NORMAL)
    background = MahalanobisDetector().fit(TRUSTED[:, :10]).score_samples(NORMAL[:, :10])
    scores = RelativeMahalanobis(sites=SITES).fit(TRUSTED).score_samples(NORMAL)
    np.testing.assert_allclose(scores, background**2 - within**2)


def test_a_class_of_one_row_has_the_mean_of_all():
    rows, classes = np.array([[0.0], [2.0], [10.0]]), np.array([0.0, 0.0, 1.0])
    known, means = class_means(rows, classes)
    assert known.tolist() == [0.0]
    assert means.tolist() == [[1.0], [4.0]]


def test_ranks_are_those_of_the_nearest_row_of_the_same_class():
    # At 0 1 2 10 on a line, classes a a b b. From 0.4, called b: 0 and 1 come nearer than 2, so rank 3; called a: 1.
    trusted = np.array([[0.0, 0], [1, 0], [2, 1], [10, 1]])
    detector = TopologicalEvolution(sites=("fc1", PREDICTED_CLASS)).fit(trusted)
    assert detector._ranks(np.array([[0.4, 1], [0.4, 0], [0.4, 5]])).tolist() == [[3], [1], [5]]  # 5: of no class here
    # Left out of their own ranks: 2 has 1 and 0 nearer than 10, and 10 has 2 next to it.
    assert detector._ranks(trusted, are_trusted=True).tolist() == [[1], [1], [3], [1]]


def test_nothing_is_more_normal_than_being_next_to_ones_class():
    # Trusted ranks are 1 and 3: their mean is an ordinary place, and still less normal than 1.
    trusted = np.array([[0.0, 0], [1, 0], [2, 1], [10, 1]])
    detector = TopologicalEvolution(sites=("fc1", PREDICTED_CLASS)).fit(trusted)
    at_one, at_two, at_three = detector.score_samples([[0.4, 0], [1.4, 1], [0.4, 1]])
    assert at_one == 0 > at_two > at_three


def test_a_copy_of_a_trusted_row_is_next_to_its_class_though_another_class_lies_there_too():
    trusted = np.array([[1.0, 0], [1.0, 1], [3.0, 0], [5.0, 1]])
    detector = TopologicalEvolution(sites=("fc1", PREDICTED_CLASS)).fit(trusted)
    assert detector._ranks(np.array([[1.0, 0], [1.0, 1]])).tolist() == [[1], [1]]


def test_a_deviation_is_counted_in_median_absolute_deviations_beyond_the_width():
    # Median 2, absolute deviations 2 1 0 1 8 with median 1. 7 lies 5 deviations away, 3 of them beyond a width of 2.
    detector = MedianDeviation(width=2.0).fit([[0.0], [1], [2], [3], [10]])
    np.testing.assert_allclose(detector.score_samples([[7.0], [-3], [4], [2]]), [-3, -3, 0, 0])


def test_a_column_that_never_varied_takes_its_spread_from_the_others():
    # Column 0 has a median absolute deviation of 1; column 1 none, so 3 away from its 5 are 3 deviations: mean 1.5.
    rows = np.c_[[0.0, 1, 2, 3, 10], np.full(5, 5.0)]
    assert MedianDeviation().fit(rows).score_samples([[2.0, 8.0]])[0] == pytest.approx(-1.5)


def test_sites_weigh_alike_whatever_their_width():
    rows = np.c_[np.tile([[0.0], [1], [2], [3], [10]], 3)]
    detector = MedianDeviation(sites=("wide", "wide", "narrow")).fit(rows)
    assert detector.score_samples([[2.0, 2.0, 6.0]])[0] == pytest.approx(-2)  # mean of 0 and 4


def test_patterns_and_detectors_call_the_class_column_alike():
    assert pattern.PREDICTED_CLASS == PREDICTED_CLASS


def test_the_column_of_the_predicted_class_is_called_alike_on_both_sides_of_the_waist():
    assert pattern.PREDICTED_CLASS == PREDICTED_CLASS
