"""Tables, .csv and .parquet, read in blocks of rows: numeric columns in order, or one list column."""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.data.array_file import NUMERIC_KINDS, ArrayFile, Rows, cut_blocks, refuse_bomb
from madpipe.errors import DamagedFileError, ShapeError, TooFewRowsError, UnknownNameError, nearest

VALUE_BYTES = 8  # of the widest number
WHOLE_BLOCK = 8192  # rows read at a time when everything is wanted
PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # what pandas adds to a parquet file for its row index: no input


def open_csv(
    path: Path, key: str | None, without: Sequence[str] = (), fitted: Sequence[str] | None = None
) -> ArrayFile:
    """A comma-separated file with a header row; every column (but those named in `without`) must be numeric.

    `key` takes one column, or those named key_0, key_1, ... alone; `fitted` then those named, in that order. An empty
    cell becomes NaN.
    """
    columns = _choose_columns(_csv_header(path), key, without, str(path))
    if fitted is not None:
        columns = _in_fitted_order(columns, fitted, str(path))

    def blocks(size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        frames = (frame[columns] for frame in _csv_frames(path, size))
        return cut_blocks((_csv_rows(frame, path, columns == [key]) for frame in frames if len(frame)), start, stop)

    shape = () if columns == [key] else (len(columns),)
    return ArrayFile(path, None, shape, blocks, lambda: _joined(blocks(WHOLE_BLOCK), shape), tuple(columns))


def _csv_header(path: Path) -> list[str]:
    names = [str(name) for name in next(_csv_frames(path, 1)).columns]
    if all(map(_is_number, names)) and names != [
        str(i) for i in range(len(names))
    ]:  # pandas numbers columns 0, 1, 2, ...
        raise ShapeError(f"{path} begins with a row of numbers; it needs a header row of column names")
    return names


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def _csv_frames(path: Path, size: int) -> Iterator[Any]:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header would lose its end
            reader = pd.read_csv(path, chunksize=size, index_col=False, low_memory=False)
            with reader:
                yield from reader
    except pd.errors.EmptyDataError as error:
        raise TooFewRowsError(f"{path} is empty; it needs a header row and one row per input") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is no well-formed csv file: {_one_line(error)}") from error


def _csv_rows(frame: Any, path: Path, single: bool) -> Rows:
    for name in frame.columns:
        if frame[name].dtype.kind not in NUMERIC_KINDS:
            raise ShapeError(f"{path}: column '{name}' is not numeric; drop it or encode it")
    rows: Rows = frame.to_numpy()
    return rows[:, 0] if single else rows


def open_parquet(
    path: Path, key: str | None, without: Sequence[str] = (), fitted: Sequence[str] | None = None
) -> ArrayFile:
    """A parquet file: its numeric columns in order, or its one list column (of equally long lists).

    `key` takes one column (numeric or list), or those named key_0, key_1, ... alone; `fitted` then those named, in that
    order, unless one list column is left, whose values have no names. A missing value becomes NaN.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema, row_count = pq.read_schema(path), pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} is no parquet file or is truncated: {_one_line(error)}") from error
    columns = _choose_columns([n for n in schema.names if not PANDAS_INDEX.fullmatch(n)], key, without, str(path))
    if fitted is not None and [_is_list(schema.field(name).type) for name in columns] != [True]:
        columns = _in_fitted_order(columns, fitted, str(path))
    lists = [name for name in columns if _is_list(schema.field(name).type)]
    if lists and len(columns) > 1:
        raise ShapeError(f"{path}: column '{lists[0]}' holds lists beside other columns; choose one with key")
    for name in columns:
        _check_arrow_type(schema.field(name).type, f"{path}: column '{name}'")

    def batch_rows(batch: Any) -> Rows:
        if lists:
            return _list_rows(batch.column(0), f"{path}: column '{lists[0]}'")
        rows = np.column_stack([_values(batch.column(name)) for name in columns])
        return rows[:, 0] if columns == [key] else rows

    def blocks(size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        try:
            with pq.ParquetFile(path) as file:
                groups, before = _row_groups(file.metadata, start, stop)
                read = map(batch_rows, file.iter_batches(size, row_groups=groups, columns=columns))
                yield from cut_blocks(read, start - before, None if stop is None else stop - before)
        except (pa.ArrowException, OSError) as error:
            raise DamagedFileError(f"{path} is damaged: {_one_line(error)}") from error

    def whole() -> Rows:
        refuse_bomb(row_count * len(columns) * VALUE_BYTES, path.stat().st_size, str(path))
        return _joined(blocks(WHOLE_BLOCK), shape)

    shape = None if lists else () if columns == [key] else (len(columns),)
    named = None if lists else tuple(columns)
    return ArrayFile(path, row_count, shape, blocks, whole, named)


def _row_groups(metadata: Any, start: int, stop: int | None) -> tuple[list[int], int]:
    """The row groups that hold rows start <= r < stop, and how many rows lie before the first of them."""
    ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
    starts = np.concatenate([[0], ends])
    chosen = [g for g, end in enumerate(ends) if end > start and (stop is None or starts[g] < stop)]
    return chosen, int(starts[chosen[0]]) if chosen else 0


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _check_arrow_type(kind: Any, source: str) -> None:
    import pyarrow.types as types

    inner = kind.value_type if _is_list(kind) else kind
    if not (types.is_boolean(inner) or types.is_integer(inner) or types.is_floating(inner)):
        raise ShapeError(f"{source} holds {kind}, which is not numeric; drop it or encode it")


def _values(column: Any) -> Rows:
    import pyarrow as pa

    if column.null_count:
        column = column.cast(pa.float64(), safe=False)
    values: Rows = column.to_numpy(zero_copy_only=False)
    return values


def _list_rows(column: Any, source: str) -> Rows:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column)
    if column.null_count or len(pc.unique(lengths)) > 1:
        raise ShapeError(f"{source} holds lists of different lengths or missing ones; every row needs as many values")
    return _values(column.flatten()).reshape(len(column), -1)


def _choose_columns(names: list[str], key: str | None, without: Sequence[str], source: str) -> list[str]:
    kept = [name for name in names if name not in without]
    if key is None or key in kept:
        chosen = kept if key is None else [key]
    else:
        chosen = [name for name in kept if re.fullmatch(re.escape(key) + r"[_.\[]?\d+\]?", name)]
    if not chosen:
        raise UnknownNameError(f"{source} has no column '{key or ''}' to read.{nearest(key or '', names)}")
    return chosen


def _in_fitted_order(names: list[str], fitted: Sequence[str], source: str) -> list[str]:
    """`fitted`, once every one of them is among `names`; a place in a table says nothing about its meaning."""
    for name in fitted:
        if name not in names:
            raise UnknownNameError(f"{source} has no column '{name}', which was fitted on.{nearest(name, names)}")
    return list(fitted)


def _joined(blocks: Iterator[Rows], shape: tuple[int, ...] | None) -> Rows:
    parts = list(blocks)
    return np.concatenate(parts) if parts else np.empty((0, *(shape or ())))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
