"""A scoring request over HTTP: its body and query string as rows of the pipeline's shape and a significance level."""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from madpipe.data.array_file import Rows
from madpipe.data.frames import frame_rows
from madpipe.data.inputs import check_rows
from madpipe.errors import ContentError, ShapeError, TooFewRowsError, UsageError, unknown

SOURCE = "the request"
DATA_KEYS = ("inputs", "instances", "dataframe_split", "dataframe_records")
SPLIT_KEYS = ("columns", "data", "index")


class UnsupportedTypeError(UsageError):
    """Neither JSON nor CSV."""


@dataclass(frozen=True)
class ScoringRequest:
    """rows [B, *input_shape]; alpha None where the request names none."""

    rows: NDArray[np.float32]
    alpha: float | None


def read_request(
    body: bytes, content_type: str, query: str, input_shape: tuple[int, ...], columns: Sequence[str] | None
) -> ScoringRequest:
    """What a request asks for. Everything that could fail while scoring fails here, as a MadpipeError of one line.

    JSON: MLflow's `inputs`, `instances`, `dataframe_split` or `dataframe_records`, or a bare list of rows, and
    `params`. CSV: a header row, then a row per input. `alpha` stands in `params` or in the query string. Columns go by
    the names that were fitted on; of a pipeline fitted on an array, by their places.
    """
    params = _query_params(query)
    if _media_type(content_type) == "text/csv":
        data: Rows | pd.DataFrame = _csv(body)
    else:
        data, stated = _json(body)
        if set(params) & set(stated):
            raise UsageError("alpha stands in the query string and in params; give it once.")
        params |= stated
    if len(data) == 0:
        raise TooFewRowsError(f"{SOURCE} holds no rows.")
    rows = frame_rows(data, columns, SOURCE) if isinstance(data, pd.DataFrame) else data
    if rows.shape == input_shape:
        raise ShapeError(f"{SOURCE} is one row; send a list of rows, also for one: [[...]].")
    return ScoringRequest(check_rows(rows, input_shape, SOURCE), _alpha(params))


def _media_type(content_type: str) -> str:
    kind, _, parameters = (part.strip().lower() for part in content_type.partition(";"))
    charset = parameters.partition("charset=")[2].strip('"') or "utf-8"
    if kind not in ("application/json", "text/csv") or charset not in ("utf-8", "utf8"):
        raise UnsupportedTypeError(
            f"Content-Type '{content_type}' is not read; send application/json or text/csv in UTF-8."
        )
    return kind


def _query_params(query: str) -> dict[str, Any]:
    pairs = parse_qsl(query, keep_blank_values=True)
    try:
        return {name: float(text) if name == "alpha" else text for name, text in pairs}
    except ValueError:
        raise UsageError(f"alpha '{dict(pairs)['alpha']}' is no number.") from None


def _alpha(params: Mapping[str, Any]) -> float | None:
    for name in params:
        if name != "alpha":
            raise unknown("parameter", name, ["alpha"])
    if "alpha" not in params:
        return None
    alpha = params["alpha"]
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise UsageError(f"alpha {json.dumps(alpha)} is no significance level; it must lie between 0 and 1.")
    return float(alpha)


def _json(body: bytes) -> tuple[Rows | pd.DataFrame, dict[str, Any]]:
    """The data and the params of a JSON body."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as failure:
        raise ContentError(f"{SOURCE} is no JSON: {failure}.") from None
    if isinstance(document, list):
        document = {"inputs": document}
    if not isinstance(document, dict):
        raise ShapeError(f"{SOURCE} must be a JSON object with one of {', '.join(DATA_KEYS)}, or a list of rows.")
    for name in document:
        if name not in (*DATA_KEYS, "params"):
            raise unknown("key", name, [*DATA_KEYS, "params"], f"{SOURCE}: ")
    named = [name for name in DATA_KEYS if name in document]
    if len(named) != 1:
        raise UsageError(f"{SOURCE} needs exactly one of {', '.join(DATA_KEYS)}, and has {len(named)}.")
    params = document.get("params")
    if params is not None and not isinstance(params, dict):
        raise UsageError('params must be an object, such as {"alpha": 0.05}.')
    return _rows_or_table(named[0], document[named[0]]), params or {}


def _rows_or_table(name: str, value: Any) -> Rows | pd.DataFrame:
    if name == "dataframe_split":
        return _split_table(value)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(row, dict) for row in value)):
        return _table(name, value)
    if name == "dataframe_records":
        raise ShapeError(f"{SOURCE}: dataframe_records must be a list of objects, one per input.")
    try:
        rows = np.asarray(value)
    except ValueError:
        raise ShapeError(f"{SOURCE}: {name} holds rows of different lengths.") from None
    if rows.dtype.kind not in "biuf" or rows.ndim == 0:
        raise ShapeError(f"{SOURCE}: {name} must be a list of rows of numbers, without text or null.")
    return rows


def _split_table(value: Any) -> pd.DataFrame:
    if not isinstance(value, dict) or "data" not in value:
        raise ShapeError(f'{SOURCE}: dataframe_split must be {{"columns": [...], "data": [[...], ...]}}.')
    for name in value:
        if name not in SPLIT_KEYS:
            raise unknown("key", name, SPLIT_KEYS, f"{SOURCE}: dataframe_split: ")
    return _table("dataframe_split", value["data"], value.get("columns"))


def _table(name: str, value: Any, columns: Any = None) -> pd.DataFrame:
    try:
        return pd.DataFrame(value, columns=columns)
    except (ValueError, TypeError, AssertionError) as failure:
        raise ShapeError(f"{SOURCE}: {name} is no table: {_sentence(failure)}") from None


def _csv(body: bytes) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header would lose its end
            return pd.read_csv(io.BytesIO(body), index_col=False)
    except pd.errors.EmptyDataError:
        raise TooFewRowsError(f"{SOURCE} is empty; it needs a header row and one row per input.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as failure:
        raise ContentError(f"{SOURCE} is no well-formed CSV: {_sentence(failure)}") from None


def _sentence(failure: Exception) -> str:
    return " ".join(str(failure).split()).rstrip(".") + "."
