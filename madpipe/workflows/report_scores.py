"""The scores that a report is about: a file of them, held to be this pipeline's, or inputs scored on the way."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from madpipe.data.inputs import open_inputs
from madpipe.detectors.conformal import p_values
from madpipe.errors import ContentError, MissingFileError
from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.scorer import Pipeline
from madpipe.score_files import member_names, read_batches, read_stamp
from madpipe.scores import ScoreTable
from madpipe.workflows.progress import row_progress
from madpipe.workflows.score import score_batch

SAME = 1e-5  # relative: scores of one input in different batches agree to this or better


def scores_of(pipeline: Pipeline, inputs: Path, alpha: float, key: str | None, label: str | None) -> ScoreTable:
    """Every row of a file of inputs."""
    without = (label,) if label else ()
    wanted = key or pipeline.key
    stream = open_inputs(
        [inputs], wanted, pipeline.batch_size, shape=pipeline.input_shape, columns=pipeline.columns, without=without
    )
    parts = []
    with row_progress(stream.row_count, "Scoring") as progress:
        for ids, x in stream:
            parts.append(score_batch(pipeline, ids, x, alpha))
            progress(sum(map(len, parts)))
    return _joined(parts)


def scores_in(path: Path, pipeline: Pipeline, folder: Path) -> ScoreTable:
    """The rows of a score file. ContentError unless they are scores of this pipeline as it is calibrated now.

    A file's stamp tells, where it has one; any file has members, and p-values that are ranks of its scores.
    """
    if not path.is_file():
        raise MissingFileError(
            f"no score file {path}; make one with 'madpipe score --pipeline {folder} ... -o {path}'."
        )
    other = ContentError(
        f"{path} holds scores of another pipeline than {folder}, or from before it was recalibrated; score again."
    )
    try:
        stamped = read_stamp(path).pipeline
    except MissingFileError:
        stamped = None
    if stamped not in (None, folder_digest(folder)):
        raise other
    try:
        names = member_names([path])
        table = _joined(list(read_batches(path)))
    except (KeyError, ValueError, AttributeError, StopIteration):  # no such column, no number, no row of a table
        raise ContentError(f"{path} is no table that 'madpipe score' wrote.") from None
    if not len(table):
        raise ContentError(f"{path} holds no rows.")
    if set(names) != set(pipeline.member_names) or not _ranked_here(table, pipeline):
        raise other
    return table


def refuse_other_rows(table: ScoreTable, path: Path, inputs: Path, scored: np.ndarray, places: np.ndarray) -> None:
    """ContentError unless the rows `places` of the table have the anomaly scores `scored`."""
    if not np.allclose(table.anomaly_score[places], scored, rtol=SAME, atol=1e-9):
        raise ContentError(
            f"{path} does not hold the scores of {inputs}; give the inputs that were scored, in their order."
        )


def _ranked_here(table: ScoreTable, pipeline: Pipeline) -> bool:
    """Whether p-values are the scores' ranks among this pipeline's calibration rows; folds rank by scores of their own,
    which the table does not hold, so that for a cross-fitted pipeline only the steps of the ranks can be looked at.
    """
    if pipeline.facts["crossed"]:
        ranks = table.p_value * (pipeline.calibration_size + 1)
        return bool(np.allclose(ranks, np.rint(ranks), atol=1e-6))
    (calibration,) = pipeline.ensemble.calibration.combined
    return bool(np.allclose(p_values(-table.anomaly_score, calibration), table.p_value, atol=1e-12))


def _joined(parts: Iterable[ScoreTable]) -> ScoreTable:
    tables = list(parts)
    names = list(tables[0].members) if tables else []
    adjusted = [table.adjusted_p_value for table in tables if table.adjusted_p_value is not None]
    return ScoreTable(
        input_id=[row for table in tables for row in table.input_id],
        anomaly_score=_column([table.anomaly_score for table in tables]),
        p_value=_column([table.p_value for table in tables]),
        flagged=_column([table.flagged for table in tables]).astype(bool),
        top_components=[row for table in tables for row in table.top_components],
        members={name: _column([table.members[name] for table in tables]) for name in names},
        adjusted_p_value=_column(adjusted) if adjusted else None,
    )


def _column(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)
