"""Scores as people and programs read them: one row per input, higher = worse, written whole or not at all.

This is the only file in which the sign turns: estimators say score_samples (higher = more normal), readers see
anomaly_score = -score_samples (higher = worse).
"""

import csv
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.errors import MissingFileError, unknown

MEMBER_PREFIX = "member_"
# What spreadsheets take for the start of a formula; those after the line break are the full-width forms of the first.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
PARTIAL = ".partial"
STAMP = "madpipe"  # under which a parquet file keeps its stamp
SIDECAR = ".meta.json"


def anomaly_score(score_samples: ArrayLike) -> NDArray[np.float64]:
    """-score_samples: higher = worse. 0 stays 0."""
    return 0.0 - np.asarray(score_samples, dtype=np.float64)


@dataclass(frozen=True)
class ScoreTable:
    """Columns of equal length, one row per input, in the inputs' order.

    anomaly_score: higher = worse. p_value: rank among trusted calibration rows, small = anomalous; no probability of
    being anomalous. top_components: what spoke loudest, most telling first, joined by "; " (may be empty). members:
    each detector's own anomaly score, higher = worse. adjusted_p_value: of the false-discovery rule, where that is what
    `flagged` follows; else there is no such column and `flagged` follows p_value.
    """

    input_id: Sequence[str]
    anomaly_score: NDArray[np.float64]
    p_value: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    top_components: Sequence[str]
    members: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    adjusted_p_value: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns().items()}
        assert len(set(lengths.values())) == 1, lengths

    @classmethod
    def from_scores(
        cls,
        input_id: Sequence[str],
        score_samples: ArrayLike,
        p_value: ArrayLike,
        alpha: float,
        *,
        top_components: Sequence[str | Sequence[str]] | None = None,
        members: Mapping[str, ArrayLike] | None = None,
    ) -> Self:
        """The table of one batch from **score_samples** of the pipeline and its members (higher = more normal).

        flagged = p_value <= alpha.
        """
        reasons = [""] * len(input_id) if top_components is None else [_joined(names) for names in top_components]
        p = np.asarray(p_value, dtype=np.float64)
        return cls(
            input_id=list(input_id),
            anomaly_score=anomaly_score(score_samples),
            p_value=p,
            flagged=p <= alpha,
            top_components=reasons,
            members={name: anomaly_score(scores) for name, scores in (members or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.input_id)

    def columns(self) -> dict[str, Any]:
        """Column name -> values, in the order in which they are written."""
        return {
            "input_id": self.input_id,
            "anomaly_score": self.anomaly_score,
            "p_value": self.p_value,
            **({} if self.adjusted_p_value is None else {"adjusted_p_value": self.adjusted_p_value}),
            "flagged": self.flagged,
            "top_components": self.top_components,
            **{f"{MEMBER_PREFIX}{name}": scores for name, scores in self.members.items()},
        }


def _joined(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else "; ".join(names)


class ScoreWriter(Protocol):
    """What `open_writer` gives: `write` appends one batch; `row_count` and `flagged_count` tell what was written."""

    row_count: int
    flagged_count: int

    def write(self, batch: ScoreTable) -> None: ...


@contextmanager
def open_writer(
    path: Path | str,
    member_names: Sequence[str] = (),
    *,
    adjusted: bool = False,
    stamp: Mapping[str, Any] | None = None,
) -> Iterator[ScoreWriter]:
    """A writer of batches to .parquet, .csv or .jsonl by the file's ending, or as csv to stdout for "-".

    The file is written beside, as "<name>.partial", and renamed when the block ends well; after an error nothing is
    left. Every batch must have these members, and adjusted p-values where `adjusted`. Memory for one batch. Raises
    UnknownNameError for another ending, MissingFileError where the folder is missing.

    `stamp` says what was scored with what: in a parquet file's own metadata, of other formats in "<name>.meta.json",
    which names the digest of the table it belongs to and is there before it. Stdout takes none.

        with open_writer("scores.parquet", ["knn"]) as writer:
            writer.write(table)
    """
    if str(path) == "-":
        yield _CsvWriter(sys.stdout, _empty_table(member_names, adjusted))
        sys.stdout.flush()
        return
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise unknown("score format", path.suffix, FORMATS, f"{path}: ")
    if not path.parent.is_dir():
        raise MissingFileError(f"cannot write {path}: there is no folder {path.parent}; make it first")
    partial = path.with_name(path.name + PARTIAL)
    try:
        with FORMATS[path.suffix.lower()](partial, _empty_table(member_names, adjusted), stamp) as writer:
            yield writer
        if stamp is not None and path.suffix.lower() != ".parquet":
            _write_sidecar(stamp, partial, sidecar_of(path))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sidecar_of(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR)


def _write_sidecar(stamp: Mapping[str, Any], table: Path, path: Path) -> None:
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    partial = path.with_name(path.name + PARTIAL)
    partial.write_text(json.dumps({**stamp, "table": digest}, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


class _Counting:
    """Counts rows, and holds every batch to the columns that the file began with, those of an `empty` table."""

    def __init__(self, empty: ScoreTable):
        self.row_count = self.flagged_count = 0
        self._empty = empty

    def write(self, batch: ScoreTable) -> None:
        assert list(batch.columns()) == list(self._empty.columns()), (list(batch.members), list(self._empty.members))
        self._write(batch.columns(), len(batch))
        self.row_count += len(batch)
        self.flagged_count += int(batch.flagged.sum())

    def _write(self, columns: dict[str, Any], row_count: int) -> None:
        raise NotImplementedError


class _CsvWriter(_Counting):
    def __init__(self, file: TextIO, empty: ScoreTable):
        super().__init__(empty)
        self._csv = csv.writer(file, lineterminator="\n")
        self._csv.writerow(self._empty.columns())

    def _write(self, columns: dict[str, Any], row_count: int) -> None:
        cells = [[safe_cell(value) for value in _plain(values)] for values in columns.values()]
        self._csv.writerows(zip(*cells, strict=True))


class _JsonLinesWriter(_Counting):
    def __init__(self, file: TextIO, empty: ScoreTable):
        super().__init__(empty)
        self._file = file

    def _write(self, columns: dict[str, Any], row_count: int) -> None:
        for row in zip(*map(_plain, columns.values()), strict=True):
            values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in row]
            self._file.write(json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False) + "\n")


class _ParquetWriter(_Counting):
    def __init__(self, path: Path, empty: ScoreTable, stamp: Mapping[str, Any] | None):
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(empty)
        kinds = {"input_id": pa.string(), "flagged": pa.bool_(), "top_components": pa.string()}
        columns = [(name, kinds.get(name, pa.float64())) for name in empty.columns()]
        self._schema = pa.schema(columns, None if stamp is None else {STAMP: json.dumps(stamp)})
        self._parquet = pq.ParquetWriter(path, self._schema)

    def _write(self, columns: dict[str, Any], row_count: int) -> None:
        import pyarrow as pa

        if row_count:
            self._parquet.write_table(pa.table(columns, self._schema))

    def close(self) -> None:
        self._parquet.close()


@contextmanager
def _text(path: Path, kind: type[_CsvWriter] | type[_JsonLinesWriter], empty: ScoreTable) -> Iterator[ScoreWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield kind(file, empty)


@contextmanager
def _parquet(path: Path, empty: ScoreTable, stamp: Mapping[str, Any] | None) -> Iterator[ScoreWriter]:
    writer = _ParquetWriter(path, empty, stamp)
    try:
        yield writer
    finally:
        writer.close()


FORMATS: dict[str, Callable[[Path, ScoreTable, Mapping[str, Any] | None], AbstractContextManager[ScoreWriter]]] = {
    ".csv": lambda path, empty, stamp: _text(path, _CsvWriter, empty),
    ".jsonl": lambda path, empty, stamp: _text(path, _JsonLinesWriter, empty),
    ".parquet": _parquet,
}


def safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets a quote before it; numbers are left alone.

    Ids hold file names and top_components the names of a model's layers, which both may come from strangers. Only csv
    needs it: parquet and jsonl say that text is text. `plain_cell` takes the quote away.
    """
    if not isinstance(value, str):
        return value
    quoted = f"'{value}" if value.startswith(FORMULA_STARTS) else value
    return quoted.replace(
        "\r", " "
    )  # csv.writer leaves it bare where lines end in a newline, and readers end a line there


def plain_cell(text: str) -> str:
    """What `safe_cell` was given, but for carriage returns."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA_STARTS) else text


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _empty_table(member_names: Sequence[str], adjusted: bool) -> ScoreTable:
    none = np.empty(0)
    members = dict.fromkeys(member_names, none)
    return ScoreTable([], none, none, none.astype(bool), [], members, none if adjusted else None)
