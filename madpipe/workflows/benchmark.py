"""`benchmark`: every cell of a suite is fitted and judged, or kept where it is there already, and all are summed up."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe.config.suite import Suite
from madpipe.errors import MissingFileError, TrackingError, UnknownNameError
from madpipe.evaluation.benchmark_tables import Table
from madpipe.tracking.runs import Store, open_store
from madpipe.workflows.benchmark_plan import CELLS, Cell, cells_of
from madpipe.workflows.benchmark_report import FILES, write_report
from madpipe.workflows.benchmark_runs import SuiteRecord, suite_run
from madpipe.workflows.processes import run_in_processes
from madpipe.workflows.starting import Report

WORK, LOGS = "work", "logs"


@dataclass(frozen=True)
class BenchmarkResult:
    """failed: cell -> why it has no result. missing: cells that were not asked for, or did not get their turn."""

    folder: Path
    summary: Mapping[str, Any]
    tables: Sequence[Table]
    made: int
    kept: int
    failed: Mapping[str, str]
    missing: Sequence[str]
    run_id: str | None
    untracked: str | None
    seconds: float


def benchmark(
    suite: Suite,
    *,
    output: Path,
    workers: int | None = None,
    only: str = "",
    report_only: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> BenchmarkResult:
    """Run the cells whose name holds `only` and that `output` lacks; sum up all that are there.

    A cell that fails is named in the result, and the others go on.
    """
    started = time.monotonic()
    cells, failed, untracked = cells_of(suite), dict[str, str](), None
    if not any(only in cell.name for cell in cells):
        raise UnknownNameError(f"--only: no cell's name holds '{only}'; they are like {cells[0].name}.")
    record: SuiteRecord | None = None
    with _alone_in(output):
        kept = {cell.name: document for cell in cells if (document := cell.read(output)) is not None}
        made: dict[str, Any] = {}
        wanted = [] if report_only else [c for c in cells if c.name not in kept and only in c.name]
        store = None if report_only else _store(suite, tracking_uri)
        report(f"{suite.name}: {len(cells)} cells, {len(kept)} there already, {len(wanted)} to run.")
        try:
            with suite_run(suite, output, store) as record:
                for cell in cells:
                    if cell.name in kept:
                        record.log(cell, kept[cell.name])
                _run(wanted, output, workers or os.cpu_count() or 1, made, failed, record, report)
                summary, shown = write_report(suite, cells, kept | made, output)
                record.finish(FILES if shown else ())
        except TrackingError as error:
            untracked = str(error)
            summary, shown = write_report(suite, cells, kept | made, output)
    return BenchmarkResult(
        folder=output,
        summary=summary,
        tables=shown,
        made=len(made),
        kept=len(kept),
        failed=failed,
        missing=[cell.name for cell in cells if cell.name not in kept | made | failed],
        run_id=record.run.id if record and record.run else None,
        untracked=untracked,
        seconds=time.monotonic() - started,
    )


def _run(
    wanted: Sequence[Cell],
    output: Path,
    workers: int,
    made: dict[str, Any],
    failed: dict[str, str],
    record: SuiteRecord,
    report: Report,
) -> None:
    """Fill `made` and `failed`."""
    by_name = {cell.name: cell for cell in wanted}
    jobs = [vars(c) | {"cell": str(c.path(output)), "scratch": str(output / WORK / c.name)} for c in wanted]
    endings = run_in_processes("madpipe.workflows.benchmark_cell", jobs, workers, output / LOGS)
    with closing(endings):
        for ended in endings:
            cell, place = by_name[ended.name], f"{len(made) + len(failed) + 1}/{len(wanted)} {ended.name}"
            shutil.rmtree(output / WORK / cell.name, ignore_errors=True)
            document = cell.read(output) if ended.code == 0 else None
            if document is None:
                failed[cell.name] = ended.reason
                report(f"{place}: failed: {ended.reason}")
                continue
            made[cell.name] = document
            report(f"{place}: {_outcome(document)}")
            record.log(cell, document)
            if record.failure and len(record.left) == 1:
                report(f"Warning: {record.failure} Results are kept in {output}.")


def _outcome(document: Mapping[str, Any]) -> str:
    if "default" not in document:
        return f"{len(document['controls'])} controls"
    default = document["default"]
    seconds = document["cost"]["fit_seconds"]
    return f"AUROC {default['auroc']:.3f}, TPR at 1 % {default['tpr_at_1']:.2f}, fitted in {seconds:.0f} s"


def _store(suite: Suite, tracking_uri: str | None) -> Store | None:
    return open_store(tracking_uri, suite.experiment) if suite.experiment else None


@contextmanager
def _alone_in(output: Path) -> Iterator[None]:
    """The folder, made where it is missing; MissingFileError while another benchmark works in it."""
    (output / CELLS).mkdir(parents=True, exist_ok=True)
    with (output / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MissingFileError(f"another benchmark works in {output} now; wait, or choose another -o.") from None
        try:
            yield
        finally:
            shutil.rmtree(output / WORK, ignore_errors=True)
            with suppress(OSError):  # logs of failed cells stay
                (output / LOGS).rmdir()
