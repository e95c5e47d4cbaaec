"""Rows of sparse features: how often, how large, how repeatable."""

import numpy as np
import pytest
import torch

from madpipe.tasks.sparse_features import SparseFeatures

FEATURES = SparseFeatures(10, probability=0.2, low=-1.0)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return FEATURES.rows(20_000, np.random.default_rng(0))


def test_a_feature_is_on_as_often_as_asked(rows):
    assert rows.dtype == np.float32
    assert rows.shape == (20_000, 10)
    assert np.allclose((rows != 0).mean(axis=0), 0.2, atol=0.014)  # 5 standard errors: 5 sqrt(0.2 * 0.8 / 20,000)


def test_features_are_on_independently(rows):
    both = (rows[:, 0] != 0) & (rows[:, 1] != 0)
    assert both.mean() == pytest.approx(0.04, abs=0.007)  # 5 sqrt(0.04 * 0.96 / 20,000)


def test_values_are_uniform_from_low_to_1(rows):
    values = np.sort(rows[rows != 0])
    assert -1 <= values[0] < -0.99
    assert 0.99 < values[-1] <= 1
    assert np.abs(values - np.linspace(-1, 1, len(values))).max() < 0.03  # 2 * 2 / sqrt(40,000): a Kolmogorov bound


def test_the_same_stream_gives_the_same_rows():
    again = [FEATURES.rows(50, np.random.default_rng(3)) for _ in range(2)]
    assert np.array_equal(*again)


def test_batches_are_fresh_and_labelled():
    batches = FEATURES.batches(50, lambda x: 2 * x, np.random.default_rng(0))
    first, second = next(batches), next(batches)
    assert torch.equal(first.labels, 2 * first.inputs)
    assert not torch.equal(first.inputs, second.inputs)
