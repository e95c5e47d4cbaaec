"""The digest of an array is its content's, all of it."""

import numpy as np

from madpipe.tracking.datasets import array_digest


def test_equal_arrays_have_equal_digests_whatever_their_memory_order():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert array_digest(x) == array_digest(np.asfortranarray(x)) == array_digest(x[::-1][::-1])


def test_one_number_far_behind_changes_the_digest():
    x = np.zeros((10_000, 8), np.float32)
    y = x.copy()
    y[-1, -1] = 1
    assert array_digest(x) != array_digest(y)


def test_shape_and_type_are_part_of_the_digest():
    x = np.zeros((4, 6), np.float32)
    assert len({array_digest(x), array_digest(x.reshape(6, 4)), array_digest(x.astype(np.int32))}) == 3
