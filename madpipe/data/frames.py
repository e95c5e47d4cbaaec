"""A pandas table in memory as an array of rows: by the columns' names where there are any, else by their places."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from madpipe.data.array_file import NUMERIC_KINDS, Rows
from madpipe.errors import ShapeError, UnknownNameError, nearest

if TYPE_CHECKING:
    import pandas as pd


def frame_rows(frame: "pd.DataFrame", columns: Sequence[str] | None, source: str) -> Rows:
    """The values of `frame` [B, n] in the order of `columns`, the names that were fitted on, whatever order it has.

    Without fitted names, and where the table's own columns are only numbered (0, 1, 2, ...), a place is all there is to
    go by. One column of lists [B] gives their values [B, ...]. UnknownNameError for a fitted column that is missing and
    for one that was not fitted on; ShapeError for what is not numeric, and for lists of different lengths.
    """
    if len(frame.columns) == 1 and frame.dtypes.iloc[0].hasobject:
        return _listed(frame.iloc[:, 0].tolist(), source)
    if columns is not None and not _only_numbered(frame):
        frame = _in_order(frame, columns, source)
    for name, kind in frame.dtypes.items():
        if kind.kind not in NUMERIC_KINDS:
            raise ShapeError(f"{source}: column '{name}' is not numeric")
    rows: Rows = frame.to_numpy()
    return rows


def _only_numbered(frame: "pd.DataFrame") -> bool:
    return [str(name) for name in frame.columns] == [str(place) for place in range(len(frame.columns))]


def _in_order(frame: "pd.DataFrame", columns: Sequence[str], source: str) -> "pd.DataFrame":
    names = [str(name) for name in frame.columns]
    for name in columns:
        if name not in names:
            raise UnknownNameError(f"{source} has no column '{name}', which was fitted on.{nearest(name, names)}")
    for name in names:
        if name not in columns:
            raise UnknownNameError(f"{source} has a column '{name}', which was not fitted on.{nearest(name, columns)}")
        if names.count(name) > 1:
            raise UnknownNameError(f"{source} has the column '{name}' {names.count(name)} times")
    return frame.set_axis(names, axis=1)[list(columns)]


def _listed(values: Sequence[object], source: str) -> Rows:
    try:
        rows = np.array([np.asarray(value, dtype=np.float64) for value in values])
    except (ValueError, TypeError):
        raise ShapeError(f"{source} holds lists of different lengths, or values that are no numbers") from None
    return rows
