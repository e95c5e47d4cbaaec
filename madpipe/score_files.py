"""Score files read back: what each says of itself, whether shards make a whole, and their rows in batches."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.errors import ContentError, DamagedFileError, MissingFileError, UsageError
from madpipe.scores import MEMBER_PREFIX, STAMP, ScoreTable, plain_cell, sidecar_of

BATCH = 4096  # rows in memory while a file is read back
TEXTS = ("input_id", "top_components")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input file: its name, and the sha256 of its bytes."""

    name: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What was scored with what. The first group is the same in every shard of one run.

    pipeline: digest of the pipeline folder. key: of the arrays in the inputs, None for the pipeline's own. rule:
    {"alpha": 0.01} or {"fdr": 0.05}. shards: into how many parts the rows were cut. rows: (start, stop) over all.
    modified: when the input was last changed, in ns since 1970; 0 where several were scored together.
    """

    pipeline: str
    calibration_size: int
    inputs: tuple[Input, ...]
    key: str | None
    rule: Mapping[str, float]
    total_rows: int
    shards: int = 1

    shard: int = 0
    rows: tuple[int, int]
    modified: int = 0

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def run(self) -> dict[str, Any]:
        """What all shards of one run have in common, and no other score file has."""
        return {name: value for name, value in asdict(self).items() if name not in ("shard", "rows", "modified")}


def read_stamp(path: Path) -> Stamp:
    """The stamp of a score file. MissingFileError without a file or without a stamp; DamagedFileError where the file
    cannot be read, or is not the table that its sidecar was written for.
    """
    if not path.is_file():
        raise MissingFileError(f"no score file {path}")
    document = _parquet_stamp(path) if path.suffix.lower() == ".parquet" else _sidecar_stamp(path)
    try:
        inputs = tuple(Input(**entry) for entry in document.pop("inputs"))
        return Stamp(**document | {"inputs": inputs, "rows": tuple(document["rows"])})
    except (KeyError, TypeError):
        raise DamagedFileError(f"{path} says what it holds in a way that this madpipe does not know") from None


def _parquet_stamp(path: Path) -> dict[str, Any]:
    found = (_parquet(path).schema_arrow.metadata or {}).get(STAMP.encode())
    if found is None:
        raise _unstamped(path)
    return _parsed(found, path)


def _sidecar_stamp(path: Path) -> dict[str, Any]:
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        raise _unstamped(path)
    document = _parsed(sidecar.read_bytes(), sidecar)
    with path.open("rb") as file:
        held = hashlib.file_digest(file, "sha256").hexdigest()
    if document.pop("table", None) != held:
        raise DamagedFileError(f"{path} is not the table that {sidecar.name} tells of; score it again")
    return document


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise DamagedFileError(f"{path} does not say readably what was scored; score it again")
    return document


def _unstamped(path: Path) -> MissingFileError:
    return MissingFileError(
        f"{path} does not say what was scored; only files of 'madpipe score --shard' and of a folder do"
    )


def in_order(stamps: Mapping[Path, Stamp]) -> list[Path]:
    """The files of one run in the order of their rows, once every shard is there exactly once.

    UsageError for files of different runs or a shard given twice; MissingFileError names the shards that lack.
    """
    first_path, first = next(iter(stamps.items()))
    for path, stamp in stamps.items():
        for name, value in stamp.run().items():
            if value != first.run()[name]:
                raise UsageError(f"{path} is of another run than {first_path}: its {_told(name)} is different.")
    places: dict[int, Path] = {}
    for path, stamp in stamps.items():
        if stamp.shard in places:
            raise UsageError(f"shard {stamp.shard}/{stamp.shards} is there twice: {places[stamp.shard]} and {path}.")
        places[stamp.shard] = path
    if lacking := [shard for shard in range(first.shards) if shard not in places]:
        named = ", ".join(f"{shard}/{first.shards}" for shard in lacking)
        raise MissingFileError(f"not all shards are there; missing: {named}. Score them with --shard, or name them.")
    ordered = [places[shard] for shard in range(first.shards)]
    _check_rows_meet([stamps[path] for path in ordered])
    return ordered


def _check_rows_meet(stamps: Sequence[Stamp]) -> None:
    ends = [0, *(stamp.rows[1] for stamp in stamps)]
    if [stamp.rows[0] for stamp in stamps] != ends[:-1] or ends[-1] != stamps[0].total_rows:
        ranges = ", ".join(f"{stamp.rows[0]}-{stamp.rows[1]}" for stamp in stamps)
        raise ContentError(f"the shards' rows {ranges} do not make up all {stamps[0].total_rows}; score them again")


def _told(name: str) -> str:
    return {"inputs": "list of input files (names and contents)", "rule": "--alpha", "key": "--key"}.get(
        name, name.replace("_", " ")
    )


def member_names(paths: Sequence[Path]) -> list[str]:
    """Of the files of one run; a jsonl file without rows does not tell."""
    columns = next(filter(None, map(_column_names, paths)), [])
    return [name.removeprefix(MEMBER_PREFIX) for name in columns if name.startswith(MEMBER_PREFIX)]


def _column_names(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    if path.suffix.lower() == ".jsonl":
        return list(json.loads(line)) if line else []
    return line.rstrip("\n").split(",")


def read_batches(path: Path) -> Iterator[ScoreTable]:
    """The rows of a score file in order, memory for one batch."""
    return map(_table, _frames(path))


def _frames(path: Path) -> Iterator[Any]:
    import pandas as pd

    match path.suffix.lower():
        case ".parquet":
            for batch in _parquet(path).iter_batches(BATCH):
                yield batch.to_pandas()
        case ".csv":
            # As text: Python's own floats are exact whatever pandas does.
            with pd.read_csv(path, chunksize=BATCH, dtype=str, keep_default_na=False) as reader:
                yield from (frame.apply(_values_of_cells) for frame in reader)
        case _:
            with path.open(encoding="utf-8") as file:
                while lines := list(islice(file, BATCH)):
                    yield pd.DataFrame([json.loads(line) for line in lines])


def _values_of_cells(column: Any) -> Any:
    if column.name in TEXTS:
        return column.map(plain_cell)
    return column == "True" if column.name == "flagged" else column.map(float)


def _table(frame: Any) -> ScoreTable:
    def numbers(name: str) -> Any:
        return frame[name].to_numpy(np.float64)

    names = [name for name in frame.columns if name.startswith(MEMBER_PREFIX)]
    return ScoreTable(
        input_id=frame["input_id"].tolist(),
        anomaly_score=numbers("anomaly_score"),
        p_value=numbers("p_value"),
        flagged=frame["flagged"].to_numpy(np.bool_),
        top_components=frame["top_components"].tolist(),
        members={name.removeprefix(MEMBER_PREFIX): numbers(name) for name in names},
        adjusted_p_value=numbers("adjusted_p_value") if "adjusted_p_value" in frame else None,
    )


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} is no parquet file or is truncated") from error
