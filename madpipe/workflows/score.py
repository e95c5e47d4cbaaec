"""`score`: inputs in files become a table of anomaly scores, p-values, flags and the parts involved."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import open_inputs
from madpipe.detectors.conformal import minimum_rows
from madpipe.errors import MissingFileError
from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.scorer import Pipeline
from madpipe.scores import ScoreTable, open_writer
from madpipe.workflows.progress import row_progress

Report = Callable[[str], None]


@dataclass(frozen=True)
class ScoreResult:
    rows: int
    flagged: int
    output: str | None
    calibration_size: int
    seconds: float


def score(
    pipeline: str,
    inputs: Sequence[Path],
    *,
    output: str | None,
    alpha: float = 0.01,
    key: str | None = None,
    batch_size: int | None = None,
    device: str = "cpu",
    log: bool = False,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> ScoreResult:
    """Stream `inputs` through the pipeline in batches; memory for one batch. `output` None writes no table."""
    started = time.monotonic()
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder, device)
    needed = minimum_rows(alpha)
    if loaded.calibration_size < needed:
        report(
            f"Warning: nothing can be flagged at alpha {alpha:g}: it takes {needed} calibration rows, "
            f"this pipeline has {loaded.calibration_size} (smallest p-value {1 / (loaded.calibration_size + 1):.3g})."
        )
    size = batch_size or loaded.batch_size
    stream = open_inputs(inputs, key or loaded.key, size, shape=loaded.input_shape, columns=loaded.columns)
    rows = flagged = 0
    writing = open_writer(output, loaded.member_names) if output else nullcontext()
    with row_progress(stream.row_count, "Scoring") as progress, writing as writer:
        for ids, x in stream:
            table = score_batch(loaded, ids, x, alpha)
            if writer:
                writer.write(table)
            rows, flagged = rows + len(table), flagged + int(table.flagged.sum())
            progress(rows)
    seconds = time.monotonic() - started
    if log:
        figures = {"rows": rows, "flagged": flagged, "flagged_share": flagged / max(rows, 1), "seconds": seconds}
        _log(folder, loaded, inputs, output, alpha, figures, tracking_uri)
    return ScoreResult(rows, flagged, output, loaded.calibration_size, seconds)


def score_batch(pipeline: Pipeline, ids: Sequence[str], x: NDArray[np.float32], alpha: float) -> ScoreTable:
    """The rows of the score file for one batch x [B, ...]."""
    scored = pipeline.score(x)
    return ScoreTable(
        input_id=ids,
        anomaly_score=scored.anomaly_score,
        p_value=scored.p_value,
        flagged=scored.p_value <= alpha,
        top_components=["; ".join(names) for names in scored.top_components],
        members=scored.members,
    )


def pipeline_folder(pipeline: str, trust_code: bool, tracking_uri: str | None) -> Path:
    """The local folder that a path or a model URI names."""
    if pipeline.startswith(("models:/", "runs:/")):
        from madpipe.tracking.model_registry import local_folder

        return local_folder(pipeline, trust_code, tracking_uri)
    if not Path(pipeline).is_dir():
        raise MissingFileError(f"no pipeline folder {pipeline}; make one with 'madpipe fit CONFIG -o {pipeline}'.")
    return Path(pipeline)


def _log(
    folder: Path,
    pipeline: Pipeline,
    inputs: Sequence[Path],
    output: str | None,
    alpha: float,
    figures: dict[str, float],
    tracking_uri: str | None,
) -> None:
    """A run of its own with the summary and the table, linked to the pipeline by its digest."""
    from madpipe.tracking.runs import open_store

    tracking = pipeline.config["tracking"]
    store = open_store(tracking_uri or tracking["tracking_uri"], tracking["experiment"])
    with store.run(f"score {inputs[0].name}", "score", {"pipeline_digest": folder_digest(folder)}) as run:
        run.params({"data.name": ", ".join(path.name for path in inputs)[:400], "score.alpha": alpha})
        run.metrics({f"score/{name}": value for name, value in figures.items()})
        if output and output != "-":
            run.artifact(Path(output), "tables")
