"""The trusted rows a pipeline folder keeps, and how rows brought by the user stand in for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import check_rows, read_array
from madpipe.data.splits import split_rows, validation_size
from madpipe.errors import ContentError, MissingFileError

FILE = "trusted/trusted.npz"
KEPT_ROWS = 20_000  # of each part: enough for controls and recalibration
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class TrustedRows:
    """Rows [n, ...] of each part of the split."""

    fit: Rows
    validation: Rows
    calibration: Rows

    def for_one_fit(self) -> "TrustedRows":
        """For a detector that is fitted once, where folds take turns at validation: no more rows are held back than
        `split_rows` would.
        """
        count = len(self.validation)
        kept = min(validation_size(len(self.fit) + count + len(self.calibration)), count)
        held_back = np.zeros(count, dtype=bool)
        held_back[np.arange(kept) * count // max(kept, 1)] = True  # evenly spaced: a user's file may be in some order
        more = self.validation[~held_back]
        return TrustedRows(np.concatenate([self.fit, more]), self.validation[held_back], self.calibration)


def kept_rows(folder: Path) -> TrustedRows:
    """The rows stored in `folder`; MissingFileError when it keeps none."""
    path = folder / FILE
    if not path.is_file():
        raise MissingFileError(f"{folder} keeps no trusted rows (data.keep_trusted was false); give --trusted FILE.")
    return TrustedRows(*(read_array(path, part) for part in ("fit", "validation", "calibration")))


def keep_rows(folder: Path, rows: TrustedRows) -> None:
    """Store rows in `folder`, at most KEPT_ROWS of each part."""
    (folder / FILE).parent.mkdir(exist_ok=True)
    parts = {name: part[:KEPT_ROWS] for name, part in vars(rows).items()}
    np.savez_compressed(folder / FILE, **parts)


def refuse_known_rows(x: Rows, rows: TrustedRows, source: str) -> None:
    """ContentError when a row of x was fitted or validated on: ranks among such rows are too good to be true."""
    known = {row.tobytes() for part in (rows.fit, rows.validation) for row in part}
    repeated = sum(row.tobytes() in known for row in x)
    if repeated:
        raise ContentError(
            f"{source}: {repeated:,} of {len(x):,} rows were fitted on; bring rows the pipeline has not seen."
        )


def rows_from(
    path: Path, key: str | None, shape: tuple[int, ...], seed: int, columns: Sequence[str] | None = None
) -> TrustedRows:
    """Rows of a user's file (of a table its `columns`, if given), split afresh; 200 or more are needed."""
    x = check_rows(read_array(path, key, columns), shape, str(path))
    split = split_rows(len(x), seed)
    return TrustedRows(x[split.fit], x[split.validation], x[split.calibration])
