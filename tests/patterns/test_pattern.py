"""The waist: a row of named features per input."""

import numpy as np
import pytest

from madpipe.errors import UnknownNameError
from madpipe.patterns.pattern import Patterns, stack


def patterns() -> Patterns:
    return Patterns(np.arange(6.0).reshape(2, 3), ("kl_alive", "l2_alive", "hidden_max"), ("", "", "fc1"))


def test_the_star_is_every_column():
    assert patterns().columns(("*",)) is not None
    np.testing.assert_array_equal(patterns().columns(("*",)), patterns().values)


def test_a_glob_chooses_columns_by_name():
    np.testing.assert_array_equal(patterns().columns(("*_alive",)), [[0, 1], [3, 4]])


def test_columns_keep_their_order_and_come_once():
    np.testing.assert_array_equal(patterns().columns(("hidden_*", "kl*", "k*")), [[0, 2], [3, 5]])


def test_a_glob_that_matches_nothing_names_the_nearest_feature():
    with pytest.raises(
        UnknownNameError, match=r"members\.x: no feature matches 'kl_alife'\. Did you mean 'kl_alive'\?"
    ):
        patterns().columns(("*", "kl_alife"), "members.x: ")


def test_a_name_per_column_is_demanded():
    with pytest.raises(AssertionError):
        Patterns(np.zeros((2, 3)), ("a", "b"), ("", ""))


def test_rows_of_batches_are_stacked_in_order():
    np.testing.assert_array_equal(stack([patterns(), patterns()]).values[2:], patterns().values)
    assert stack([patterns()]).features == patterns().features
