"""Which trusted rows are fitted on, which the combiner learns from, and which only rank: disjoint by index."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madpipe.errors import ConfigError, TooFewRowsError

Indices = NDArray[np.int64]

MINIMUM_ROWS = 20
SPLIT_ROWS = 200  # below this a calibration part of 99 rows leaves too few to fit on: cross-fit with fold_rows instead
CALIBRATION_SHARE, CALIBRATION_RANGE = 4, (99, 1000)  # 99 rows are the fewest with which p <= 0.01 is possible
VALIDATION_SHARE, VALIDATION_RANGE = 10, (20, 500)
FOLD_VALIDATION_SHARE, FOLD_VALIDATION_RANGE = 5, (4, 500)


@dataclass(frozen=True)
class Split:
    """Row indices of one trusted set, each sorted, no index in two parts.

    fit: the decomposition and the members learn from them. validation: held back from fitting, the combiner's scales
    come from them. calibration: only ranked against, after everything else is frozen.
    """

    fit: Indices
    validation: Indices
    calibration: Indices

    @property
    def row_count(self) -> int:
        return len(self.fit) + len(self.validation) + len(self.calibration)


def split_rows(
    row_count: int, seed: int, *, calibration_rows: int | None = None, validation_rows: int | None = None
) -> Split:
    """One random split of 200 rows or more: calibration n // 4 within [99, 1000], validation n // 10 within [20, 500].

    Raises TooFewRowsError under 200 rows, or when the parts asked for leave fewer than 20 rows to fit on.
    """
    if row_count < SPLIT_ROWS:
        raise TooFewRowsError(f"a single split needs {SPLIT_ROWS} trusted rows, got {row_count}; use cross-fit folds")
    calibration = (
        _clip(row_count // CALIBRATION_SHARE, CALIBRATION_RANGE) if calibration_rows is None else calibration_rows
    )
    validation = _clip(row_count // VALIDATION_SHARE, VALIDATION_RANGE) if validation_rows is None else validation_rows
    if calibration < 1 or validation < 1:
        raise ConfigError(f"calibration and validation need at least one row each, got {calibration} and {validation}")
    if row_count - calibration - validation < MINIMUM_ROWS:
        raise TooFewRowsError(
            f"{row_count} trusted rows less {calibration} for calibration and {validation} for validation leave fewer "
            f"than {MINIMUM_ROWS} to fit on; ask for smaller parts or bring more rows"
        )
    order = np.random.default_rng(seed).permutation(row_count)
    return _split(order[calibration:], order[:calibration], validation)


def fold_rows(row_count: int, folds: int, seed: int) -> list[Split]:
    """K splits for cross-fitting: every row is in `calibration` of exactly one; validation is a fifth of the others.

    Raises TooFewRowsError under 20 rows, ConfigError unless 2 <= folds <= row_count // 4.
    """
    if row_count < MINIMUM_ROWS:
        raise TooFewRowsError(f"at least {MINIMUM_ROWS} trusted rows are needed, got {row_count}")
    if not 2 <= folds <= row_count // 4:
        raise ConfigError(f"{folds} folds asked for with {row_count} rows; choose between 2 and {row_count // 4}")
    parts = np.array_split(np.random.default_rng(seed).permutation(row_count), folds)
    splits = []
    for held_out, part in enumerate(parts):
        others = np.concatenate([other for fold, other in enumerate(parts) if fold != held_out])
        splits.append(_split(others, part, _clip(len(others) // FOLD_VALIDATION_SHARE, FOLD_VALIDATION_RANGE)))
    return splits


def _split(others: Indices, calibration: Indices, validation: int) -> Split:
    return Split(np.sort(others[validation:]), np.sort(others[:validation]), np.sort(calibration))


def _clip(value: int, bounds: tuple[int, int]) -> int:
    return min(max(value, bounds[0]), bounds[1])
