"""Splits: disjoint, complete, of the stated sizes, repeatable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madpipe.data.splits import Split, ensemble_rows, fold_rows, split_rows
from madpipe.errors import ConfigError, TooFewRowsError


def parts(split: Split) -> list[np.ndarray]:
    return [split.fit, split.validation, split.calibration]


@given(row_count=st.integers(200, 20_000), seed=st.integers(0, 2**32 - 1))
def test_every_row_is_in_exactly_one_part(row_count, seed):
    joined = np.concatenate(parts(split_rows(row_count, seed)))
    np.testing.assert_array_equal(np.sort(joined), np.arange(row_count))


@given(row_count=st.integers(20, 400), folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_every_row_is_calibration_of_exactly_one_fold(row_count, folds, seed):
    splits = fold_rows(row_count, folds, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([s.calibration for s in splits])), np.arange(row_count))


@given(row_count=st.integers(20, 400), folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_the_parts_of_a_fold_are_disjoint_and_none_is_empty(row_count, folds, seed):
    for split in fold_rows(row_count, folds, seed):
        assert all(len(part) for part in parts(split))
        np.testing.assert_array_equal(np.sort(np.concatenate(parts(split))), np.arange(row_count))


@given(row_count=st.integers(200, 5000), folds=st.integers(2, 6), seed=st.integers(0, 1000))
def test_folds_of_an_ensemble_share_calibration_and_hold_out_every_other_row_once(row_count, folds, seed):
    splits = ensemble_rows(row_count, folds, seed)
    assert all(np.array_equal(split.calibration, split_rows(row_count, seed).calibration) for split in splits)
    held_out = np.concatenate([split.validation for split in splits])
    np.testing.assert_array_equal(np.sort(np.concatenate([held_out, splits[0].calibration])), np.arange(row_count))
    for split in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate(parts(split))), np.arange(row_count))


@pytest.mark.parametrize(("folds", "calibration"), [(2, 270), (4, 275)])
def test_an_ensemble_that_leaves_too_little_to_fit_on_is_refused(folds, calibration):
    with pytest.raises(TooFewRowsError, match=f"{folds} folds"):
        ensemble_rows(300, folds, seed=0, calibration_rows=calibration)


@pytest.mark.parametrize(
    ("row_count", "validation", "calibration"),
    [
        (200, 20, 99),  # 200 // 4 = 50 is raised to 99, with which p <= 0.01 is possible
        (400, 40, 100),
        (2000, 200, 500),
        (20_000, 500, 1000),  # both at their upper bounds
    ],
)
def test_parts_have_the_stated_sizes(row_count, validation, calibration):
    split = split_rows(row_count, seed=0)
    assert (len(split.validation), len(split.calibration)) == (validation, calibration)
    assert split.row_count == row_count


def test_sizes_asked_for_are_given():
    split = split_rows(500, seed=0, calibration_rows=199, validation_rows=30)
    assert (len(split.fit), len(split.validation), len(split.calibration)) == (271, 30, 199)


def test_indices_are_sorted_int64():
    for part in parts(split_rows(300, seed=3)):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def test_the_same_seed_gives_the_same_split():
    first, second = split_rows(300, seed=7), split_rows(300, seed=7)
    for one, other in zip(parts(first), parts(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_seed_gives_another_split():
    assert set(split_rows(300, seed=0).calibration) != set(split_rows(300, seed=1).calibration)


def test_a_single_split_refuses_fewer_than_200_rows():
    with pytest.raises(TooFewRowsError, match=r"200 trusted rows, got 199.*folds"):
        split_rows(199, seed=0)


def test_folds_refuse_fewer_than_20_rows():
    with pytest.raises(TooFewRowsError, match="20 trusted rows are needed, got 19"):
        fold_rows(19, 5, seed=0)


def test_parts_that_leave_too_little_to_fit_on_are_refused():
    with pytest.raises(TooFewRowsError, match="fewer than 20 to fit on"):
        split_rows(300, seed=0, calibration_rows=290)


@pytest.mark.parametrize("folds", [0, 1, 11])
def test_a_senseless_number_of_folds_is_refused(folds):
    with pytest.raises(ConfigError, match="between 2 and 10"):
        fold_rows(40, folds, seed=0)


def test_an_empty_part_cannot_be_asked_for():
    with pytest.raises(ConfigError, match="at least one row"):
        split_rows(300, seed=0, validation_rows=0)


@given(row_count=st.integers(40, 400), folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_folds_that_take_turns_at_calibration_validate_on_rows_of_their_own(row_count, folds, seed):
    validated = np.concatenate([split.validation for split in fold_rows(row_count, folds, seed)])
    assert len(np.unique(validated)) == len(validated)
