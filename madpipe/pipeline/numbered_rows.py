"""The trusted rows that a pipeline folder keeps, with their numbers in the user's trusted data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.pipeline.folder import read_facts
from madpipe.pipeline.trusted_rows import FILE, KEPT_ROWS, kept_rows
from madpipe.pipeline.writing import read_split

Rows = NDArray[np.float32]


PARTS = ("fit", "validation", "calibration")


def numbered_rows(folder: Path, parts: Sequence[str] = PARTS) -> tuple[Rows, NDArray[np.int64]] | None:
    """(rows [n, ...], numbers [n]) of these parts in the order of the user's file; None where the folder keeps none.

    Rows that a later calibration brought are of another file, and left out.
    """
    if not (folder / FILE).is_file():
        return None
    rows, split = kept_rows(folder), read_split(folder)
    if "recalibrated_on" in read_facts(folder):
        parts = [part for part in parts if part != "calibration"]
    x = np.concatenate([getattr(rows, part) for part in parts])
    numbers = np.concatenate([getattr(split, part)[:KEPT_ROWS] for part in parts])
    order = np.argsort(numbers, kind="stable")
    return x[order], numbers[order].astype(np.int64)
