"""`score`: inputs in files become a table of anomaly scores, p-values, flags and the parts involved."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import InputStream, open_inputs
from madpipe.detectors.conformal import minimum_rows
from madpipe.errors import ContentError, MissingFileError, TooFewRowsError
from madpipe.pipeline.drift import DriftReport, DriftWatch, drift_watch
from madpipe.pipeline.folder import digest, folder_digest
from madpipe.pipeline.scorer import Pipeline
from madpipe.score_files import Input, Stamp
from madpipe.scores import ScoreTable, open_writer
from madpipe.workflows.discoveries import write_discoveries
from madpipe.workflows.progress import row_progress
from madpipe.workflows.score_runs import log_scores

Report = Callable[[str], None]


@dataclass(frozen=True)
class ScoreResult:
    rows: int
    flagged: int
    output: str | None
    calibration_size: int
    seconds: float
    drift: DriftReport | None = None


def score(
    pipeline: str,
    inputs: Sequence[Path],
    *,
    output: str | None,
    alpha: float = 0.01,
    fdr: float | None = None,
    shard: tuple[int, int] | None = None,
    monitor: Path | None = None,
    monitor_level: float | None = None,
    key: str | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    log: bool = False,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> ScoreResult:
    """Stream `inputs` through the pipeline in batches; memory for one batch. `output` None writes no table.

    `fdr` flags by false-discovery control over all inputs instead of alpha, and keeps their p-values in memory. `shard`
    (i, n) scores the i-th of n parts of the rows. `monitor` names the file of a watch for drift.
    """
    started = time.monotonic()
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder, device)
    if fdr is not None and loaded.facts["crossed"]:
        raise TooFewRowsError(
            "--fdr: this pipeline has too few trusted rows for one frozen calibration (it is cross-fitted), and of its "
            "p-values no false-discovery rate is known to follow; fit on at least 200 rows, or use --alpha."
        )
    size = batch_size or loaded.batch_size
    stream = open_inputs(inputs, key or loaded.key, size, shape=loaded.input_shape, columns=loaded.columns)
    stamp = None
    if shard:
        if output:  # whichever job of an array comes first finds no folder yet
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        stream = stream.part(*shard)
        stamp = replace(run_stamp(folder, loaded, stream, key, {"alpha": alpha}), shard=shard[0], shards=shard[1])
    if fdr is None:
        warn_of_level(alpha, loaded.calibration_size, report)
    with open_watch(monitor, monitor_level, folder, loaded, key) as watch:
        if fdr is None:
            rows, flagged = write_scores(loaded, stream, output, alpha, stamp=stamp, watch=watch)
        else:
            with _spool(output) as spooled:
                write_scores(loaded, stream, str(spooled), alpha, watch=watch)
                rows, flagged = write_discoveries([spooled], output, fdr, loaded.calibration_size, report)
    drift = watch.report() if watch else None
    tell_of_memory(loaded, size, report)
    seconds = time.monotonic() - started
    if monitor and drift:
        show_drift(drift, monitor, report)
    if log:
        figures = {"rows": rows, "flagged": flagged, "flagged_share": flagged / max(rows, 1), "seconds": seconds}
        rule = {"score.alpha": alpha} if fdr is None else {"score.fdr": fdr}
        log_scores(folder, loaded, inputs, output, rule, figures, drift, tracking_uri)
    return ScoreResult(rows, flagged, output, loaded.calibration_size, seconds, drift)


def write_scores(
    pipeline: Pipeline,
    stream: InputStream,
    output: str | None,
    alpha: float,
    *,
    stamp: Stamp | None = None,
    watch: DriftWatch | None = None,
) -> tuple[int, int]:
    """Score the stream into a table, written whole or not at all: (rows, flagged).

    The watch is saved before the table gets its name: a run that is stopped between the two is repeated, and what the
    watch has counted it does not count again.
    """
    rows = flagged = 0
    described = None if stamp is None else stamp.document()
    writing = open_writer(output, pipeline.member_names, stamp=described) if output else nullcontext()
    with row_progress(stream.row_count, "Scoring") as progress, writing as writer:
        for path, batches in stream.by_file():
            count = watch.begin(path) if watch else _count_nothing
            for ids, x in batches:
                table = score_batch(pipeline, ids, x, alpha)
                count(table.anomaly_score)
                if writer:
                    writer.write(table)
                rows, flagged = rows + len(table), flagged + int(table.flagged.sum())
                progress(rows)
        if stamp and rows != stamp.rows[1] - stamp.rows[0]:
            raise ContentError(f"the inputs changed while they were scored: {stamp.rows} became {rows} rows; try again")
        if watch:
            watch.save()
    return rows, flagged


def score_batch(pipeline: Pipeline, ids: Sequence[str], x: NDArray[np.float32], alpha: float) -> ScoreTable:
    """The rows of the score file for one batch x [B, ...]."""
    scored = pipeline.score_flagging(x, alpha)
    return ScoreTable(
        input_id=ids,
        anomaly_score=scored.anomaly_score,
        p_value=scored.p_value,
        flagged=scored.p_value <= alpha,
        top_components=["; ".join(names) for names in scored.top_components],
        members=scored.members,
    )


def run_stamp(folder: Path, pipeline: Pipeline, part: InputStream, key: str | None, rule: Mapping[str, float]) -> Stamp:
    """What is scored with what. Every input file is read once more, for its digest."""
    assert part.span is not None, "the stamp of a part"
    return Stamp(
        pipeline=folder_digest(folder),
        calibration_size=pipeline.calibration_size,
        inputs=tuple(Input(name=file.path.name, digest=digest(file.path)) for file in part.files),
        key=key,
        rule=dict(rule),
        total_rows=sum(file.row_count or 0 for file in part.files),
        rows=part.span,
    )


def pipeline_folder(pipeline: str, trust_code: bool, tracking_uri: str | None) -> Path:
    """The local folder that a path or a model URI names."""
    if pipeline.startswith(("models:/", "runs:/")):
        from madpipe.tracking.model_registry import local_folder

        return local_folder(pipeline, trust_code, tracking_uri)
    if not Path(pipeline).is_dir():
        raise MissingFileError(f"no pipeline folder {pipeline}; make one with 'madpipe fit CONFIG -o {pipeline}'.")
    return Path(pipeline)


def warn_of_level(alpha: float, calibration_size: int, report: Report) -> None:
    needed = minimum_rows(alpha)
    if calibration_size < needed:
        report(
            f"Warning: nothing can be flagged at alpha {alpha:g}: it takes {needed} calibration rows, "
            f"this pipeline has {calibration_size} (smallest p-value {1 / (calibration_size + 1):.3g})."
        )


def tell_of_memory(pipeline: Pipeline, batch_size: int, report: Report) -> None:
    if pipeline.memory_limit:
        report(
            f"Memory was too short for batches of {batch_size:,} inputs: scored {pipeline.memory_limit:,} at a time, "
            f"to the same scores. --batch-size {pipeline.memory_limit} avoids the attempts."
        )


def open_watch(
    monitor: Path | None, level: float | None, folder: Path, pipeline: Pipeline, key: str | None
) -> AbstractContextManager[DriftWatch | None]:
    return drift_watch(monitor, level, folder, pipeline, key) if monitor else nullcontext()


def _count_nothing(anomaly_scores: Any) -> None:
    pass


@contextmanager
def _spool(output: str | None) -> Iterator[Path]:
    """Where scores wait until all p-values are known: on the disk that will hold the table."""
    beside = Path(output).parent if output and output != "-" else None
    if beside is not None and not beside.is_dir():
        raise MissingFileError(f"cannot write {output}: there is no folder {beside}; make it first")
    with TemporaryDirectory(prefix=".madpipe-", dir=beside) as scratch:
        yield Path(scratch) / "scores.parquet"


def show_drift(drift: DriftReport, monitor: Path, report: Report) -> None:
    """A picture of the watch beside its file, and what it found in a line."""
    from madpipe.reporting.drift_figure import drift_figure
    from madpipe.reporting.figures import save_figure

    history = drift.history
    save_figure(
        drift_figure(history.at, history.log10_evidence, drift.level, drift.alarmed_at), monitor.with_suffix(".png")
    )
    if drift.skipped:
        report(f"Watched before, not counted again: {', '.join(drift.skipped)}.")
    evidence = f"evidence 10^{drift.log10_evidence:.1f} after {drift.seen:,} inputs -> {monitor}"
    if drift.alarmed_at is None:
        report(f"No drift: {evidence} (alarm at {1 / drift.level:g}).")
        return
    report(
        f"Drift: alarm at input {drift.alarmed_at:,} (evidence over {1 / drift.level:g}; false at most "
        f"{drift.level:.2%} of the time); now {evidence}. See what changed, recalibrate or fit again, and watch in a "
        "new file."
    )
