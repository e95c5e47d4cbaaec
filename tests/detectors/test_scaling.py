"""Scales of columns: ordinary ones divided by their spread, constant ones never by nothing."""

import numpy as np
import pytest

from madpipe.detectors.scaling import column_scales

TRUSTED = np.random.default_rng(0).normal(size=(100, 3)) * [1.0, 2.0, 3.0]


def test_columns_that_vary_have_their_own_mean_and_spread():
    mean, spread = column_scales(TRUSTED)
    np.testing.assert_array_equal(mean, TRUSTED.mean(axis=0))
    np.testing.assert_array_equal(spread, TRUSTED.std(axis=0))


def test_a_constant_column_borrows_the_median_spread():
    _, spread = column_scales(np.c_[TRUSTED, np.full(100, 5.0)])
    assert spread[3] == np.median(TRUSTED.std(axis=0))


def test_rounding_noise_of_float32_does_not_count_as_spread():
    noise = 1000 * (1 + 1e-7 * np.random.default_rng(1).choice([-1, 1], size=100))
    assert column_scales(np.c_[TRUSTED, noise])[1][3] == np.median(TRUSTED.std(axis=0))


def test_tiny_columns_around_zero_do_vary():
    assert column_scales(TRUSTED * 1e-20)[1] == pytest.approx(TRUSTED.std(axis=0) * 1e-20)


def test_when_nothing_varies_the_unit_is_one():
    np.testing.assert_array_equal(column_scales(np.full((10, 2), 3.0))[1], [1.0, 1.0])
