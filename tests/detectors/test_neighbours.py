"""Nearest rows, and the two detectors that stand on them: exact, and equal to scikit-learn's."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import LocalOutlierFactor

from madpipe.detectors import neighbours
from madpipe.detectors.local_outlier_factor import LocalOutlierFactorDetector
from madpipe.detectors.nearest_neighbours import NearestNeighboursDetector
from madpipe.detectors.neighbours import nearest_rows

GENERATOR = np.random.default_rng(0)
TRUSTED, X = GENERATOR.normal(size=(150, 6)), GENERATOR.normal(size=(60, 6)) * 2


def test_nearest_rows_are_those_of_a_full_table_of_distances():
    table = cdist(X, TRUSTED)
    indices, distances = nearest_rows(TRUSTED, X, 7)
    np.testing.assert_array_equal(indices, np.argsort(table, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(table, axis=1)[:, :7], rtol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    whole = nearest_rows(TRUSTED, X, 3)
    monkeypatch.setattr(neighbours, "LARGEST_BLOCK", 1000)  # six rows at a time
    for one, other in zip(whole, nearest_rows(TRUSTED, X, 3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_rows_distance_to_its_own_copy_is_exactly_zero():
    far = TRUSTED + 1e6  # here |x|^2 - 2 x.y + |y|^2 is off by about 1e-3
    _, distances = nearest_rows(far, far, 1)
    assert (distances == 0).all()


def test_the_knn_score_is_minus_the_mean_distance_in_standardised_columns():
    mean, spread = TRUSTED.mean(axis=0), TRUSTED.std(axis=0)
    table = np.sort(cdist((X - mean) / spread, (TRUSTED - mean) / spread), axis=1)
    np.testing.assert_allclose(NearestNeighboursDetector(k=3).fit(TRUSTED).score_samples(X), -table[:, :3].mean(axis=1))


def test_knn_takes_all_rows_where_there_are_fewer_than_k():
    scores = NearestNeighboursDetector(k=50).fit([[0.0], [2.0]]).score_samples([[1.0]])
    assert scores == pytest.approx([-1.0])  # standardised the rows are -1 and 1, and the middle is 0


def test_the_local_outlier_factor_is_scikit_learns():
    ours = LocalOutlierFactorDetector().fit(TRUSTED)
    theirs = LocalOutlierFactor(novelty=True).fit((TRUSTED - ours.mean_) / ours.scale_)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples((X - ours.mean_) / ours.scale_), rtol=1e-9)


def test_the_local_outlier_factor_bears_many_copies_of_one_row():
    trusted = np.r_[np.zeros((60, 2)), np.random.default_rng(0).normal(size=(20, 2))]
    assert np.isfinite(LocalOutlierFactorDetector().fit(trusted).score_samples(trusted)).all()


def test_a_row_beside_a_dense_cloud_is_odder_than_one_in_a_thin_cloud():
    dense, thin = GENERATOR.normal(size=(200, 2)) * 0.1, GENERATOR.normal(size=(200, 2)) * 5 + 40
    beside, inside = LocalOutlierFactorDetector().fit(np.r_[dense, thin]).score_samples([[1.5, 1.5], [40.0, 42.0]])
    assert beside < inside
