"""What a request may look like, and what is said where it cannot be scored."""

import json

import numpy as np
import pytest

from madpipe.errors import MadpipeError
from madpipe.tracking.scoring_request import ScoringRequest, UnsupportedTypeError, read_request

NAMES = ["age", "income", "debt"]
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def read(body, kind="application/json", query="", shape=(3,), columns=None) -> ScoringRequest:
    text = body if isinstance(body, bytes | str) else json.dumps(body)
    return read_request(text.encode() if isinstance(text, str) else text, kind, query, shape, columns)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ROWS},
        {"instances": ROWS},
        ROWS,
        {"dataframe_split": {"data": ROWS}},
        {"dataframe_split": {"columns": ["debt", "age", "income"], "data": [[3, 1, 2], [6, 4, 5]], "index": [0, 1]}},
        {"dataframe_records": [{"debt": 3, "age": 1, "income": 2}, {"income": 5, "age": 4, "debt": 6}]},
        {"inputs": {"debt": [3, 6], "income": [2, 5], "age": [1, 4]}},
    ],
)
def test_rows_arrive_in_the_order_of_the_fit_in_whatever_form(body):
    asked = read(body, columns=NAMES)
    assert asked.rows.tolist() == ROWS
    assert asked.rows.dtype == np.float32
    assert asked.alpha is None


def test_csv_goes_by_its_header():
    assert read("debt,age,income\n3,1,2\n6,4,5\n", "text/csv; charset=utf-8", columns=NAMES).rows.tolist() == ROWS


def test_rows_are_brought_to_the_shape_of_the_inputs():
    assert read([[1, 2, 3, 4]], shape=(2, 2)).rows.tolist() == [[[1, 2], [3, 4]]]
    assert read([[[1, 2], [3, 4]]], shape=(2, 2)).rows.tolist() == [[[1, 2], [3, 4]]]


def test_alpha_stands_in_the_params_or_in_the_query():
    assert read({"inputs": ROWS, "params": {"alpha": 0.2}}).alpha == 0.2
    assert read(ROWS, query="alpha=0.2").alpha == 0.2
    assert read({"inputs": ROWS, "params": None}).alpha is None


def with_params(**params):
    return {"inputs": ROWS, "params": params}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "the request is no JSON: "),
        ("{", "the request is no JSON: "),
        (b"\xff", "the request is no JSON: "),
        ("[" * 100_000, "the request is no JSON: "),
        (3, "the request must be a JSON object with one of inputs, "),
        ({}, "needs exactly one of inputs, instances, dataframe_split, dataframe_records, and has 0"),
        ({"inputs": ROWS, "instances": ROWS}, "and has 2"),
        ({"input": ROWS}, "the request: no key named 'input'. Did you mean 'inputs'?"),
        ([], "the request holds no rows"),
        ([1, 2, 3], "the request is one row; send a list of rows"),
        ([1, 2], "rows have shape (), and (3,) is needed"),
        ([[1, 2]], "rows have shape (2,), and (3,) is needed"),
        ([[[1], [2], [3]]], "rows have shape (3, 1), and (3,) is needed"),
        ([[1, 2, 3], [1, 2]], "inputs holds rows of different lengths"),
        ([[1, 2, "3"]], "inputs must be a list of rows of numbers, without text or null"),
        ([[1, 2, None]], "inputs must be a list of rows of numbers, without text or null"),
        ("[[1, 2, 3], [1, 2, NaN]]", "row 1 holds a value that is NaN or infinite"),
        ("[[1, 2, 1e999]]", "row 0 holds a value that is NaN or infinite"),
        ("[[1, 2, 1e300]]", "row 0 holds a value that is too large for float32"),
        ({"dataframe_split": ROWS}, 'dataframe_split must be {"columns": [...], "data": [[...], ...]}'),
        ({"dataframe_split": {"data": ROWS, "colums": NAMES}}, "no key named 'colums'. Did you mean 'columns'?"),
        ({"dataframe_split": {"data": ROWS, "columns": ["a"]}}, "dataframe_split is no table: 1 columns passed"),
        ({"dataframe_records": ROWS}, "dataframe_records must be a list of objects"),
        ({"dataframe_records": [{"age": 1, "income": 2}]}, "no column 'debt', which was fitted on"),
        ({"dataframe_records": [{"age": 1, "income": 2, "debt": 3}, {"age": 1}]}, "row 1 holds a value that is NaN"),
        ({"dataframe_split": {"columns": [*NAMES, "x"], "data": [[1, 2, 3, 4]]}}, "a column 'x', which was not fitted"),
        (with_params(alpha=2), "alpha 2 is no significance level; it must lie between 0 and 1"),
        (with_params(alpha=0), "alpha 0 is no significance level"),
        (with_params(alpha=True), "alpha true is no significance level"),
        (with_params(alpha="0.1"), 'alpha "0.1" is no significance level'),
        (with_params(alpha=None), "alpha null is no significance level"),
        (with_params(alpah=0.1), "no parameter named 'alpah'. Did you mean 'alpha'?"),
        ({"inputs": ROWS, "params": [0.1]}, "params must be an object"),
    ],
)
def test_a_request_that_cannot_be_scored_is_told_why_in_one_line(body, said):
    with pytest.raises(MadpipeError) as refused:
        read(body, columns=NAMES)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "the request is empty; it needs a header row"),
        ("age,income,debt\n", "the request holds no rows"),
        ("age,income,debt\n1,2\n", "row 0 holds a value that is NaN"),
        ("age,income,debt\n1,2,3,4\n", "the request is no well-formed CSV: "),
        ("age,income,debt\n1,2,x\n", "column 'debt' is not numeric"),
        ("age,incomes,debt\n1,2,3\n", "no column 'income', which was fitted on. Did you mean 'incomes'?"),
        (b"\xff,b\n1,2\n", "the request is no well-formed CSV: "),
    ],
)
def test_a_csv_that_cannot_be_scored_is_told_why(body, said):
    with pytest.raises(MadpipeError) as refused:
        read(body, "text/csv", columns=NAMES)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [("alpha=x", "alpha 'x' is no number"), ("beta=1", "no parameter named 'beta'"), ("alpha=7", "alpha 7.0 is no")],
)
def test_a_wrong_query_is_told_why(query, said):
    with pytest.raises(MadpipeError, match=said):
        read(ROWS, query=query)


def test_alpha_twice_is_once_too_often():
    with pytest.raises(MadpipeError, match="give it once"):
        read(with_params(alpha=0.1), query="alpha=0.1")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "text/csv; charset=latin-1"])
def test_other_content_types_are_refused_by_their_name(kind):
    with pytest.raises(UnsupportedTypeError, match="send application/json or text/csv in UTF-8"):
        read(ROWS, kind)
