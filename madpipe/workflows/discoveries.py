"""Flags by false-discovery control: every p-value is needed before the first row can be written."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.detectors.discoveries import adjusted_p_values, fewest_discoveries
from madpipe.score_files import member_names, read_batches
from madpipe.scores import open_writer


def write_discoveries(
    sources: Sequence[Path],
    output: str | None,
    q: float,
    calibration_size: int,
    report: Callable[[str], None],
    stamp: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """The rows of score files, one after the other, flagged at false-discovery rate q: (rows, flagged)."""
    p_values = [table.p_value for path in sources for table in read_batches(path)]
    adjusted = adjusted_p_values(np.concatenate([np.empty(0), *p_values]))
    _warn_of_floor(q, len(adjusted), calibration_size, report)
    names = member_names(sources)
    writing = open_writer(output, names, adjusted=True, stamp=stamp) if output else nullcontext()
    row = 0
    with writing as writer:
        for table in (table for path in sources for table in read_batches(path)):
            own = adjusted[row : row + len(table)]
            row += len(table)
            if writer:
                writer.write(replace(table, adjusted_p_value=own, flagged=own <= q))
    return len(adjusted), int((adjusted <= q).sum())


def _warn_of_floor(q: float, inputs: int, calibration_size: int, report: Callable[[str], None]) -> None:
    needed = fewest_discoveries(q, inputs, calibration_size)
    smallest = f"{calibration_size} calibration rows allow no p-value below {1 / (calibration_size + 1):.3g}"
    if needed > inputs:
        report(f"Warning: nothing can be flagged at false-discovery rate {q:g}: {smallest}.")
    elif needed > 1:
        report(
            f"Note: {smallest}, so among {inputs:,} inputs none is flagged at false-discovery rate {q:g} before "
            f"{needed:,} have it; more calibration rows (madpipe recalibrate) or smaller batches lower that number."
        )
