"""`merge`: the score files of all shards of one run become the table that one process would have written."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from madpipe.errors import UsageError
from madpipe.score_files import in_order, member_names, read_batches, read_stamp
from madpipe.scores import open_writer
from madpipe.workflows.discoveries import write_discoveries


@dataclass(frozen=True)
class MergeResult:
    rows: int
    flagged: int
    output: str
    shards: int
    rule: dict[str, float]
    seconds: float


def merge(
    scores: Sequence[Path], *, output: str, fdr: float | None = None, report: Callable[[str], None]
) -> MergeResult:
    """Join shards once they are complete; memory for one batch, and for all p-values with `fdr`, which flags by
    false-discovery control over all rows.
    """
    started = time.monotonic()
    if output != "-" and Path(output).resolve() in {path.resolve() for path in scores}:
        raise UsageError(f"-o {output}: is one of the tables to merge; name another file.")
    stamps = {path: read_stamp(path) for path in dict.fromkeys(scores)}
    paths = in_order(stamps)
    first_stamp = stamps[paths[0]]
    rule = dict(first_stamp.rule) if fdr is None else {"fdr": fdr}
    whole = replace(first_stamp, shards=1, rows=(0, first_stamp.total_rows), rule=rule)
    stamp = None if output == "-" else whole.document()
    if "fdr" in first_stamp.rule:
        raise UsageError(f"{paths[0]}: was merged with --fdr before; merge the shards that it is made of.")
    if fdr is not None:
        rows, flagged = write_discoveries(paths, output, fdr, whole.calibration_size, report, stamp)
    else:
        with open_writer(output, member_names(paths), stamp=stamp) as writer:
            for table in (table for path in paths for table in read_batches(path)):
                writer.write(table)
        rows, flagged = writer.row_count, writer.flagged_count
    return MergeResult(rows, flagged, output, len(paths), rule, time.monotonic() - started)
