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
    calibration = _calibration_size(row_count, calibration_rows)
    validation = validation_size(row_count) if validation_rows is None else validation_rows
    if calibration < 1 or validation < 1:
        raise ConfigError(f"calibration and validation need at least one row each, got {calibration} and {validation}")
    if row_count - calibration - validation < MINIMUM_ROWS:
        raise TooFewRowsError(
            f"{row_count} trusted rows less {calibration} for calibration and {validation} for validation leave fewer "
            f"than {MINIMUM_ROWS} to fit on; ask for smaller parts or bring more rows"
        )
    order = np.random.default_rng(seed).permutation(row_count)
    return _split(order[calibration:], order[:calibration], validation)


def ensemble_rows(row_count: int, folds: int, seed: int, *, calibration_rows: int | None = None) -> list[Split]:
    """K splits of 200 rows or more that share their calibration rows; every other row is validation of exactly one.

    The calibration rows are those of `split_rows` with the same seed and size. Raises TooFewRowsError under 200 rows,
    or when fewer than 20 are left to fit on.
    """
    calibration = _calibration_size(row_count, calibration_rows)
    if calibration < 1:
        raise ConfigError(f"calibration needs at least one row, got {calibration}")
    order = np.random.default_rng(seed).permutation(row_count)
    ranked, others = order[:calibration], order[calibration:]
    if len(others) - -(-len(others) // folds) < MINIMUM_ROWS:
        raise TooFewRowsError(
            f"{row_count} trusted rows less {calibration} for calibration leave fewer than {MINIMUM_ROWS} for each of "
            f"{folds} folds to fit on; ask for less calibration or bring more rows"
        )
    return [Split(np.sort(fit), np.sort(held_out), np.sort(ranked)) for fit, held_out in _folds(others, folds)]


def fold_rows(row_count: int, folds: int, seed: int) -> list[Split]:
    """K splits for cross-fitting: every row is in `calibration` of exactly one; validation is a fifth of the others.

    Raises TooFewRowsError under 20 rows, ConfigError unless 2 <= folds <= row_count // 4.
    """
    if row_count < MINIMUM_ROWS:
        raise TooFewRowsError(f"at least {MINIMUM_ROWS} trusted rows are needed, got {row_count}")
    if not 2 <= folds <= row_count // 4:
        raise ConfigError(f"{folds} folds asked for with {row_count} rows; choose between 2 and {row_count // 4}")
    order = np.random.default_rng(seed).permutation(row_count)
    return [
        _split(others, part, _clip(len(others) // FOLD_VALIDATION_SHARE, FOLD_VALIDATION_RANGE))
        for others, part in _folds(order, folds)
    ]


def validation_size(row_count: int) -> int:
    """How many of that many trusted rows are held back from one fit: a tenth within [20, 500]."""
    return _clip(row_count // VALIDATION_SHARE, VALIDATION_RANGE)


def _calibration_size(row_count: int, wanted: int | None) -> int:
    if row_count < SPLIT_ROWS:
        raise TooFewRowsError(
            f"calibration rows of their own need {SPLIT_ROWS} trusted rows, got {row_count}; use cross-fit folds"
        )
    return _clip(row_count // CALIBRATION_SHARE, CALIBRATION_RANGE) if wanted is None else wanted


def _folds(order: Indices, folds: int) -> list[tuple[Indices, Indices]]:
    """(the others, those held out) for each of `folds` parts of `order`; the others begin with the part that follows,
    so that what folds take from the beginning is not the same rows.
    """
    parts = np.array_split(order, folds)
    return [(np.concatenate([*parts[k + 1 :], *parts[:k]]), part) for k, part in enumerate(parts)]


def _split(others: Indices, calibration: Indices, validation: int) -> Split:
    return Split(np.sort(others[validation:]), np.sort(others[:validation]), np.sort(calibration))


def _clip(value: int, bounds: tuple[int, int]) -> int:
    return min(max(value, bounds[0]), bounds[1])
