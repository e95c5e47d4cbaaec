"""Forest, support vectors, mixture and code length: equal to their references, and what each alone promises."""

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM

from madpipe.detectors.gaussian_mixture import GaussianMixtureDetector
from madpipe.detectors.isolation_forest import IsolationForestDetector
from madpipe.detectors.one_class_svm import OneClassSVMDetector
from madpipe.detectors.surprise import Surprise

GENERATOR = np.random.default_rng(0)
TRUSTED, X = GENERATOR.normal(size=(300, 6)), GENERATOR.normal(size=(60, 6)) * 2


@pytest.mark.parametrize("row_count", [2, 20, 300])
def test_the_forest_is_scikit_learns(row_count):
    theirs = IsolationForest(n_estimators=20, random_state=0).fit(TRUSTED[:row_count])
    ours = IsolationForestDetector(n_estimators=20).fit(TRUSTED[:row_count])
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-12)


def test_the_forests_seed_is_a_parameter():
    first, second = (IsolationForestDetector(n_estimators=5, random_state=seed).fit(TRUSTED) for seed in (0, 1))
    assert not np.array_equal(first.score_samples(X), second.score_samples(X))


def test_the_support_vector_score_is_the_logarithm_of_scikit_learns():
    ours = OneClassSVMDetector(nu=0.2).fit(TRUSTED)
    rows, x = (TRUSTED - ours.mean_) / ours.scale_, (X - ours.mean_) / ours.scale_
    theirs = OneClassSVM(nu=0.2, gamma="scale").fit(rows).score_samples(x)
    np.testing.assert_allclose(ours.score_samples(X), np.log(theirs), rtol=1e-6)


def test_the_support_vector_score_goes_on_falling_where_the_kernel_is_zero():
    near, far = OneClassSVMDetector().fit(TRUSTED).score_samples([[1e3] * 6, [1e4] * 6])
    assert far < near < -745  # exp(-745) is the smallest float above 0


def test_the_mixture_finds_two_clouds_and_the_gap_between_them():
    clouds = np.r_[TRUSTED[:150], TRUSTED[150:] + 20]
    detector = GaussianMixtureDetector().fit(clouds)
    assert detector.mixture_.n_components == 2
    assert detector.score_samples([[10.0] * 6])[0] < detector.score_samples(clouds).min()


def test_the_number_of_components_has_the_smallest_bic():
    detector = GaussianMixtureDetector(max_components=4).fit(TRUSTED)
    rows = (TRUSTED - detector.mean_) / detector.scale_
    bic = {
        k: GaussianMixture(k, covariance_type="diag", reg_covar=1e-3, random_state=0).fit(rows).bic(rows)
        for k in (1, 2, 4)
    }
    assert detector.mixture_.n_components == min(bic, key=lambda k: bic[k])


def test_a_full_covariance_sees_a_broken_correlation():
    first = GENERATOR.normal(size=300)
    trusted = np.c_[first, first + 0.1 * GENERATOR.normal(size=300)]
    along, across = GaussianMixtureDetector(covariance="full").fit(trusted).score_samples([[1.0, 1.0], [1.0, -1.0]])
    assert across < along - 10


def test_the_code_length_is_the_formula():
    # Three rows, columns active 3, 0 and 1 times: q = 3.5 / 4, 0.5 / 4, 1.5 / 4.
    detector = Surprise().fit([[1, 0, 0], [1, 0, 0], [1, 0, 1]])
    expected = np.log2([3.5 / 4, 1 - 0.5 / 4, 1 - 1.5 / 4]).sum(), np.log2([1 - 3.5 / 4, 0.5 / 4, 1.5 / 4]).sum()
    np.testing.assert_allclose(detector.score_samples([[1, 0, 0], [0, 1, 1]]), expected)


def test_a_column_never_active_on_trusted_rows_costs_log2_of_2_n_plus_2_bits():
    detector = Surprise().fit(np.zeros((99, 1)))  # q = 0.5 / 100
    assert detector.column_bits([[1.0]])[0, 0] == pytest.approx(np.log2(200))


def test_column_bits_add_up_to_the_code_length():
    detector = Surprise().fit(TRUSTED)
    np.testing.assert_allclose(detector.column_bits(X).sum(axis=1), -detector.score_samples(X))


def test_only_values_above_the_threshold_are_active():
    detector = Surprise(threshold=0.5).fit([[0.0], [0.0], [1.0]])
    low, at, high = detector.score_samples([[-9.0], [0.5], [0.51]])
    assert low == at
    assert high < at


def test_the_mean_code_length_of_trusted_rows_is_within_half_a_log_of_the_best_code():
    usage = np.array([0.05, 0.5, 0.9])
    trusted = (np.random.default_rng(1).random((500, 3)) < usage).astype(float)
    share = trusted.mean(axis=0)
    best = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum()
    mean = -Surprise().fit(trusted).score_samples(trusted).mean()
    assert best <= mean <= best + 3 * (0.5 * np.log2(500) + 1) / 500


@pytest.mark.parametrize(
    "detector", [IsolationForestDetector(n_estimators=50), OneClassSVMDetector(), GaussianMixtureDetector()], ids=str
)
def test_each_separates_a_shifted_cloud(detector):
    normal, shifted = np.random.default_rng(2).normal(size=(2, 100, 6)) + np.array([[[0.0]], [[4.0]]])
    scores = detector.fit(TRUSTED).score_samples(np.r_[normal, shifted])
    assert roc_auc_score(np.repeat([0, 1], 100), -scores) > 0.99
