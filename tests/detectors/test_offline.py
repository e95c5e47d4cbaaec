"""Offline detectors: what unlabelled rows add, and what is left without them."""

import numpy as np
import pytest
from scipy.linalg import expm
from sklearn.metrics import roc_auc_score

from madpipe.detectors.detector import OfflineDetector
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.mahalanobis_per_site import MahalanobisPerSite
from madpipe.detectors.quantum_entropy import QuantumEntropy
from madpipe.detectors.sites import PREDICTED_CLASS
from madpipe.detectors.spectral_signature import SpectralSignature
from madpipe.registry import DETECTORS

each_detector = pytest.mark.parametrize("detector", [QuantumEntropy, SpectralSignature], ids=lambda d: d.__name__)


def rows(row_count: int, seed: int, shift: float = 0.0, columns: int = 30) -> np.ndarray:
    """A round cloud; `shift` moves it along one oblique direction."""
    direction = np.ones(columns) / np.sqrt(columns)
    return np.random.default_rng(seed).normal(size=(row_count, columns)) + shift * direction


TRUSTED, UNTRUSTED = rows(100, 0), np.r_[rows(180, 1), rows(20, 2, shift=4.0)]
NORMAL, SHIFTED = rows(200, 3), rows(200, 4, shift=4.0)


def auroc(detector: OfflineDetector) -> float:
    return float(roc_auc_score(np.repeat([0, 1], 200), -detector.score_samples(np.r_[NORMAL, SHIFTED])))


@each_detector
def test_unlabelled_anomalies_show_where_to_look(detector):
    offline, online = detector().fit(TRUSTED, untrusted=UNTRUSTED), detector().fit(TRUSTED)
    assert auroc(offline) > auroc(online) + 0.1
    assert auroc(offline) > 0.97


@each_detector
def test_the_order_of_untrusted_rows_leaves_scores(detector):
    plain, turned = (detector().fit(TRUSTED, untrusted=u).score_samples(NORMAL) for u in (UNTRUSTED, UNTRUSTED[::-1]))
    np.testing.assert_allclose(turned, plain, rtol=1e-7)


@each_detector
def test_a_row_scores_alike_alone_and_in_company(detector):
    fitted = detector().fit(TRUSTED, untrusted=UNTRUSTED)
    alone = np.concatenate([fitted.score_samples(row[None]) for row in SHIFTED[:20]])
    np.testing.assert_allclose(alone, fitted.score_samples(SHIFTED[:20]), rtol=1e-9)


@each_detector
@pytest.mark.parametrize("bad", [UNTRUSTED[:, :3], np.full((4, 30), np.nan), np.empty((0, 30))], ids=["F", "nan", "0"])
def test_untrusted_rows_are_checked_as_trusted_ones_are(detector, bad):
    with pytest.raises(ValueError, match=r"features|NaN|minimum"):
        detector().fit(TRUSTED, untrusted=bad)


def test_the_weights_are_the_matrix_exponential():
    detector, mahalanobis = QuantumEntropy(alpha=4.0).fit(TRUSTED, untrusted=UNTRUSTED), MahalanobisDetector()
    h, u = (mahalanobis.fit(TRUSTED).whitened(part) for part in (NORMAL, UNTRUSTED))
    moment = u.T @ u / len(u)
    Q = expm(4 * (moment - np.eye(30)) / (np.linalg.norm(moment, 2) - 1))
    np.testing.assert_allclose(detector.score_samples(NORMAL), -np.einsum("nf,fg,ng->n", h, Q, h) / np.trace(Q))


def test_fewer_untrusted_rows_than_columns_have_the_same_weights():
    few = UNTRUSTED[-12:]
    detector, h, u = (
        QuantumEntropy().fit(TRUSTED, untrusted=few),
        *(MahalanobisDetector().fit(TRUSTED).whitened(part) for part in (NORMAL, few)),
    )
    moment = u.T @ u / len(u)
    Q = expm(4 * (moment - np.eye(30)) / (np.linalg.norm(moment, 2) - 1))
    np.testing.assert_allclose(detector.score_samples(NORMAL), -np.einsum("nf,fg,ng->n", h, Q, h) / np.trace(Q))


def test_without_temperature_it_is_the_squared_distance_per_site():
    # Q = I, so each site's squares are divided by its number of columns: 15 and 15.
    sites = ("fc1",) * 15 + ("fc2",) * 15
    scores = QuantumEntropy(alpha=0.0, sites=sites).fit(TRUSTED, untrusted=UNTRUSTED).score_samples(NORMAL)
    np.testing.assert_allclose(-scores * 15, MahalanobisPerSite(sites=sites).fit(TRUSTED).score_samples(NORMAL) ** 2)


def test_the_signature_is_the_squared_projection_on_the_first_principal_direction():
    mean = UNTRUSTED.mean(axis=0)
    direction = np.linalg.eigh(np.cov(UNTRUSTED.T))[1][:, -1]
    scores = SpectralSignature().fit(TRUSTED, untrusted=UNTRUSTED).score_samples(NORMAL)
    np.testing.assert_allclose(scores, -(((NORMAL - mean) @ direction) ** 2), rtol=1e-6, atol=1e-12)


def test_each_class_has_a_signature_of_its_own():
    # Class 0 spreads along column 0, class 1 along column 1: a step along the other's column is ordinary.
    generator = np.random.default_rng(0)
    along = [np.diag([9.0, 1.0]), np.diag([1.0, 9.0])]
    untrusted = np.concatenate([np.c_[generator.normal(size=(50, 2)) @ along[c], np.full(50, c)] for c in (0, 1)])
    detector = SpectralSignature(sites=("head", "head", PREDICTED_CLASS)).fit(untrusted, untrusted=untrusted)
    first, second = detector.score_samples([[20.0, 0, 0], [20.0, 0, 1]])
    assert first < 10 * second


def test_the_table_says_which_detectors_are_offline():
    offline = {name for name in DETECTORS if DETECTORS.load(name).offline}
    assert offline == {"quantum_entropy", "spectral_signature"}
