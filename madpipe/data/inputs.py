"""Files of inputs as float32 rows: one array whole, or many files as a stream that needs memory for one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.data.array_file import ArrayFile, Rows, check_dtype
from madpipe.data.npy_stream import open_npy, open_npz
from madpipe.data.safe_tensors import open_safetensors
from madpipe.data.tables import open_csv, open_parquet
from madpipe.errors import MissingFileError, NonFiniteError, ShapeError, TooFewRowsError, unknown

Float32 = NDArray[np.float32]
Batch = tuple[list[str], Float32]
COUNTED_BLOCK = 8192  # rows in memory while the rows of a file are counted

TABLES: dict[str, Callable[[Path, str | None, Sequence[str], Sequence[str] | None], ArrayFile]] = {
    ".csv": open_csv,
    ".parquet": open_parquet,
}
ARRAYS: dict[str, Callable[[Path, str | None], ArrayFile]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
}


def read_array(path: Path, key: str | None = None, columns: Sequence[str] | None = None) -> Rows:
    """The whole array as it was saved (any numeric dtype; .npy memory-mapped), rows first; nothing is ever unpickled.

    Without a key: the file's only array, else the one named "x"; of a table all numeric columns, or those that
    `columns` names, in that order. Raises MissingFileError, UnknownNameError (key, column, extension),
    DamagedFileError, ShapeError (not numeric), TooFewRowsError.
    """
    file = _open(Path(path), key, columns=columns)
    array = file.whole()
    if len(array) == 0:
        raise TooFewRowsError(f"{path} holds no rows")
    return array


def column_names(path: Path, key: str | None = None) -> list[str] | None:
    """What `read_array(path, key)` reads of a table, in that order; None of an array, or a column of lists."""
    columns = _open(Path(path), key).columns
    return None if columns is None else list(columns)


def read_labels(path: Path, label_name: str = "is_anomalous") -> NDArray[np.bool_]:
    """One truth value per row from the array or column `label_name`: booleans, or numbers that are all 0 or 1."""
    labels = read_array(path, label_name)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise ShapeError(f"{path}: '{label_name}' {labels.shape} is no label; it needs one 0 or 1 (or boolean) per row")
    return labels.astype(bool)


def check_rows(x: Rows, shape: tuple[int, ...] | None, source: str, first_row: int = 0) -> Float32:
    """`x` [B, ...] as float32 rows of the given shape (any, when None); flat rows of the right size are reshaped.

    Raises ShapeError when rows do not fit or are not numeric, NonFiniteError naming the first row that holds NaN,
    infinity or a value beyond float32. `first_row` is the number of the block's first row, for that message.
    """
    check_dtype(x.dtype, source)
    if shape is not None and x.shape[1:] != shape:
        if x.ndim not in (1, 2) or prod(x.shape[1:]) != prod(shape):
            raise ShapeError(f"{source}: rows have shape {x.shape[1:]}, and {shape} is needed")
        x = x.reshape(len(x), *shape)
    if x.ndim < 2:
        raise ShapeError(
            f"{source} is a flat list of shape {x.shape}; it needs one row per input and one axis of values"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(x, dtype=np.float32)
    rows = rows if rows.flags.writeable else rows.copy()  # torch shares the memory of what it is given
    finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    if not finite.all():
        row = int(np.argmin(finite))
        cause = "NaN or infinite" if not np.isfinite(x[row]).all() else "too large for float32"
        raise NonFiniteError(f"{source}: row {first_row + row} holds a value that is {cause}; drop or repair it")
    return rows


@dataclass(frozen=True)
class InputStream:
    """Batches of (ids, x float32 [B, ...]) in file order; may be iterated again. Batches do not reach across files.

    row_count: of what is iterated over, None when a file does not say (csv). shape: of one input. span: (start, stop)
    of a part, counted over all files; None of the whole. An id is the row's number in its file, "<file name>:<row>"
    when there are several files, in a part as in the whole.
    """

    files: tuple[ArrayFile, ...]
    batch_size: int
    shape: tuple[int, ...]
    row_count: int | None
    span: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:
        for _, batches in self.by_file():
            yield from batches

    def by_file(self) -> Iterator[tuple[Path, Iterator[Batch]]]:
        """The same batches, file by file."""
        for file, prefix, (start, stop) in zip(self.files, self._prefixes(), self._ranges(), strict=True):
            yield file.path, self._batches(file, prefix, start, stop)

    def _batches(self, file: ArrayFile, prefix: str, start: int, stop: int | None) -> Iterator[Batch]:
        row = start
        for block in file.blocks(self.batch_size, start, stop):
            rows = check_rows(block, self.shape, str(file.path), row)
            yield [f"{prefix}{row + i}" for i in range(len(rows))], rows
            row += len(rows)
        if row == 0 and stop is None:
            raise TooFewRowsError(f"{file.path} holds no rows")

    def part(self, index: int, count: int) -> "InputStream":
        """The `index`-th of `count` runs of consecutive rows over all files, whose lengths differ by at most one.

        A file that does not say how many rows it has is read once to count them.
        """
        assert 0 <= index < count, (index, count)
        files = tuple(_counted(file) for file in self.files)
        total = sum(file.row_count or 0 for file in files)
        start, stop = total * index // count, total * (index + 1) // count
        return replace(self, files=files, row_count=stop - start, span=(start, stop))

    def _ranges(self) -> list[tuple[int, int | None]]:
        """The rows that are wanted of each file."""
        if self.span is None:
            return [(0, None)] * len(self.files)
        ranges: list[tuple[int, int | None]] = []
        before = 0
        for file in self.files:
            held = file.row_count or 0
            start, stop = (min(max(end - before, 0), held) for end in self.span)
            ranges.append((start, stop))
            before += held
        return ranges

    def _prefixes(self) -> list[str]:
        if len(self.files) == 1:
            return [""]
        names = [file.path.name for file in self.files]
        paths = [str(file.path) for file in self.files]
        return [f"{name}:" for name in (names if len(set(names)) == len(names) else paths)]


def open_inputs(
    paths: Sequence[Path],
    key: str | None,
    batch_size: int,
    *,
    shape: tuple[int, ...] | None = None,
    without: Sequence[str] = (),
    columns: Sequence[str] | None = None,
) -> InputStream:
    """A stream over one or more files, of any mix of formats, whose rows have one shape.

    `shape` is what a row must have (flat rows of as many values are reshaped); when None the first file's shape counts.
    `without` names columns of tables that are no inputs, such as labels; `columns` those that are, in order. Raises
    what `read_array` raises, here or while reading; NonFiniteError while reading.
    """
    if not paths:
        raise MissingFileError("no input file was named")
    assert batch_size > 0, batch_size
    files = tuple(_open(Path(path), key, without, columns) for path in paths)
    row_shape = shape or files[0].row_shape or _first_row_shape(files[0])
    for file in files:
        if file.row_shape is not None:
            check_rows(np.empty((0, *file.row_shape)), row_shape, str(file.path))
    counts = [file.row_count for file in files]
    return InputStream(files, batch_size, row_shape, None if None in counts else sum(c or 0 for c in counts))


def _counted(file: ArrayFile) -> ArrayFile:
    if file.row_count is not None:
        return file
    held = sum(len(block) for block in file.blocks(COUNTED_BLOCK))
    if held == 0:
        raise TooFewRowsError(f"{file.path} holds no rows")
    return replace(file, row_count=held)


def _first_row_shape(file: ArrayFile) -> tuple[int, ...]:
    if file.row_shape == ():
        raise ShapeError(f"{file.path} is a flat list; it needs one row per input and one axis of values")
    first = next(file.blocks(1), None)
    if first is None:
        raise TooFewRowsError(f"{file.path} holds no rows")
    return tuple(first.shape[1:])


def _open(path: Path, key: str | None, without: Sequence[str] = (), columns: Sequence[str] | None = None) -> ArrayFile:
    if not path.is_file():
        raise MissingFileError(f"no file {path}{_nearby(path)}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        file = TABLES[suffix](path, key, without, columns)
    elif suffix in ARRAYS:
        file = ARRAYS[suffix](path, key)
    else:
        raise unknown("input format", suffix, [*ARRAYS, *TABLES], f"{path}: ")
    if file.row_count == 0:
        raise TooFewRowsError(f"{path} holds no rows")
    if file.row_shape is not None and 0 in file.row_shape:  # any number of such rows fits into no bytes at all
        raise ShapeError(f"{path}: rows of shape {file.row_shape} hold no values")
    return file


def _nearby(path: Path) -> str:
    """What lies in the folder under a similar name, to end a missing-file message."""
    if path.is_dir():
        return "; it is a folder: name a file in it"
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    close = get_close_matches(path.name, [other.name for other in path.parent.iterdir()], n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}?" if close else f"; nothing in {path.parent} has a similar name"
