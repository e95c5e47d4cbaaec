"""Mahalanobis distance: equal to the textbook's, for more rows than columns and the other way round."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from madpipe.detectors.mahalanobis import RIDGE, MahalanobisDetector


def correlated(row_count: int, column_count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(column_count, column_count))
    return generator.normal(size=(row_count, column_count)) @ mixing * np.geomspace(1e-3, 1e3, column_count)


@pytest.mark.parametrize(("row_count", "column_count"), [(200, 5), (40, 40), (30, 120)])
def test_the_score_is_the_distance_in_scikit_learns_shrunk_covariance(row_count, column_count):
    trusted, x = correlated(row_count, column_count), correlated(15, column_count, seed=1)
    mean, spread = trusted.mean(axis=0), trusted.std(axis=0)
    shrunk = LedoitWolf(assume_centered=True).fit((trusted - mean) / spread).covariance_ + RIDGE * np.eye(column_count)
    rows = (x - mean) / spread
    expected = -np.sqrt(np.einsum("nf,nf->n", rows, np.linalg.solve(shrunk, rows.T).T))
    np.testing.assert_allclose(MahalanobisDetector().fit(trusted).score_samples(x), expected, rtol=1e-8)


def test_the_units_of_columns_do_not_matter():
    trusted, units = correlated(80, 6), np.geomspace(1e-8, 1e8, 6)
    plain, scaled = MahalanobisDetector().fit(trusted), MahalanobisDetector().fit(trusted * units)
    np.testing.assert_allclose(scaled.score_samples(trusted * units), plain.score_samples(trusted), rtol=1e-8)


def test_the_trusted_mean_is_the_most_normal_row():
    trusted = correlated(80, 6)
    assert MahalanobisDetector().fit(trusted).score_samples(trusted.mean(axis=0)[None])[0] == pytest.approx(0, abs=1e-6)


def test_breaking_a_correlation_is_anomalous_though_each_column_is_ordinary():
    first = np.random.default_rng(0).normal(size=300)
    trusted = np.c_[first, first + 0.01 * np.random.default_rng(1).normal(size=300)]
    along, across = MahalanobisDetector().fit(trusted).score_samples([[1.0, 1.0], [1.0, -1.0]])
    assert across < 10 * along


def test_a_departure_in_a_column_that_never_varied_is_seen():
    trusted = np.c_[correlated(100, 3), np.full(100, 4.0)]
    usual, departed = trusted[:1], trusted[:1] + [0, 0, 0, np.median(trusted[:, :3].std(axis=0))]
    detector = MahalanobisDetector().fit(trusted)
    assert detector.score_samples(departed)[0] < detector.score_samples(usual)[0] - 1
