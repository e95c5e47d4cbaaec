"""The trusted rows a pipeline folder keeps, and how rows brought by the user stand in for them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import check_rows, read_array
from madpipe.data.splits import split_rows
from madpipe.errors import MissingFileError

FILE = "trusted/trusted.npz"
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class TrustedRows:
    """Rows [n, ...] of each part of the split."""

    fit: Rows
    validation: Rows
    calibration: Rows


def kept_rows(folder: Path) -> TrustedRows:
    """The rows stored in `folder`; MissingFileError when it keeps none."""
    path = folder / FILE
    if not path.is_file():
        raise MissingFileError(f"{folder} keeps no trusted rows (data.keep_trusted was false); give --trusted FILE.")
    return TrustedRows(*(read_array(path, part) for part in ("fit", "validation", "calibration")))


def rows_from(path: Path, key: str | None, shape: tuple[int, ...], seed: int) -> TrustedRows:
    """Rows of a user's file, split afresh; 200 or more are needed."""
    x = check_rows(read_array(path, key), shape, str(path))
    split = split_rows(len(x), seed)
    return TrustedRows(x[split.fit], x[split.validation], x[split.calibration])
