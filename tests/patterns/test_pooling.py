"""Positions to one row per input."""

import torch

from madpipe.patterns.pooling import largest, root_mean_square, summed


def test_the_largest_is_by_magnitude_and_keeps_its_sign():
    values = torch.tensor([[1.0, -3.0], [2.0, 0.5], [-1.5, 2.0]]).view(1, 1, 3, 2)  # positions x slots
    assert largest(values).tolist() == [[[2.0, -3.0]]]


def test_without_positions_nothing_is_pooled():
    values = torch.randn(2, 3, 4)
    assert largest(values) is values
    assert summed(values) is values


def test_two_axes_of_positions_are_pooled_at_once():
    values = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(summed(values), values.sum((2, 3)))
    torch.testing.assert_close(largest(values).abs(), values.abs().amax((2, 3)))


def test_a_root_mean_square_is_over_units_and_positions():
    # sqrt((1 + 9 + 1 + 1) / 4) = sqrt(3)
    values = torch.tensor([[1.0, -3.0], [1.0, 1.0]]).view(1, 1, 2, 2)
    torch.testing.assert_close(root_mean_square(values), torch.tensor([[3.0]]).sqrt())
