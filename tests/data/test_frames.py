"""Tables in memory: columns go by their names where both sides have names, by their places where one has none."""

import numpy as np
import pandas as pd
import pytest

from madpipe.data.frames import frame_rows
from madpipe.errors import ShapeError, UnknownNameError

FITTED = ["age", "income", "debt"]


def test_columns_are_taken_by_name_in_the_order_of_the_fit():
    frame = pd.DataFrame({"debt": [3, 6], "age": [1, 4], "income": [2.5, 5.5]})
    assert frame_rows(frame, FITTED, "it").tolist() == [[1, 2.5, 3], [4, 5.5, 6]]


@pytest.mark.parametrize("columns", [None, [0, 1, 2], ["0", "1", "2"]])
def test_columns_that_are_only_numbered_are_taken_by_place(columns):
    assert frame_rows(pd.DataFrame([[1, 2, 3]], columns=columns), FITTED, "it").tolist() == [[1, 2, 3]]


def test_names_say_nothing_to_a_pipeline_fitted_on_an_array():
    frame = pd.DataFrame({"debt": [3], "age": [1], "income": [2]})
    assert frame_rows(frame, None, "it").tolist() == [[3, 1, 2]]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["age", "incom", "debt"], "it has no column 'income', which was fitted on. Did you mean 'incom'?"),
        (["age", "income"], "it has no column 'debt', which was fitted on."),
        ([*FITTED, "label"], "it has a column 'label', which was not fitted on."),
        ([*FITTED, "age"], "it has the column 'age' 2 times"),
    ],
)
def test_a_missing_an_unknown_and_a_doubled_column_are_named(columns, said):
    with pytest.raises(UnknownNameError) as refused:
        frame_rows(pd.DataFrame(np.zeros((1, len(columns))), columns=columns), FITTED, "it")
    assert said in str(refused.value)


def test_one_column_of_lists_gives_their_values():
    frame = pd.DataFrame({"x": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]})
    assert frame_rows(frame, None, "it").shape == (2, 2, 2)


@pytest.mark.parametrize("rows", [[[1, 2], [3]], [["a"], ["b"]], [{}, {}]])
def test_lists_that_are_no_rows_of_numbers_are_refused(rows):
    with pytest.raises(ShapeError, match="it holds lists of different lengths, or values that are no numbers"):
        frame_rows(pd.DataFrame({"x": rows}), None, "it")


def test_text_in_a_column_is_named():
    with pytest.raises(ShapeError, match="it: column 'income' is not numeric"):
        frame_rows(pd.DataFrame({"age": [1], "income": ["much"], "debt": [0]}), FITTED, "it")
