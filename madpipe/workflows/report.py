"""`report`: one page about a pipeline, and about inputs that it scored."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.errors import MissingFileError, UsageError
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import FILE as KEPT
from madpipe.reporting import pipeline_page
from madpipe.reporting.page import page
from madpipe.scores import PARTIAL, ScoreTable
from madpipe.workflows.evaluate import Judged, judge
from madpipe.workflows.explanation_files import image_shape
from madpipe.workflows.report_asked import Asked, about_making, facts_of, findings
from madpipe.workflows.report_scores import refuse_other_rows, scores_in, scores_of
from madpipe.workflows.report_sections import (
    about_calibration,
    about_decomposition,
    about_flagged,
    about_scores,
    about_separation,
)
from madpipe.workflows.score import pipeline_folder

Report = Callable[[str], None]


@dataclass(frozen=True)
class ReportResult:
    """figures: the numbers that the page shows."""

    path: Path
    bytes: int
    figures: Mapping[str, Any]


def report(
    asked: Asked,
    *,
    overwrite: bool = False,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> ReportResult:
    """Write the page whole or not at all. Without scores and inputs it is about the pipeline alone."""
    _refuse(asked, overwrite)
    folder = pipeline_folder(asked.pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder)
    image = image_shape(loaded.input_shape, asked.image)
    table = _scores(asked, loaded, folder)
    judged = _judged(asked, loaded, folder, table, report)
    figures: dict[str, Any] = {}
    report("Looking at the decompositions ...")
    parts = [
        *about_decomposition(loaded, folder, image, figures),
        about_calibration(asked, loaded, judged, figures),
    ]
    if table is not None:
        parts.append(about_scores(asked, loaded, table, figures))
    if judged is not None:
        parts.append(about_separation(asked, judged, figures))
    if table is not None:
        report("Explaining flagged inputs ...")
        parts.append(about_flagged(asked, loaded, folder, table, image, figures))
    facts = facts_of(loaded, table)
    opening = pipeline_page.introduction(facts, findings(figures))
    written = page(
        f"madpipe: {loaded.facts['trusted']['name']}", [opening, *parts, about_making(asked, loaded, folder)]
    )
    return ReportResult(asked.output, _write(asked.output, written), figures)


def _refuse(asked: Asked, overwrite: bool) -> None:
    output = asked.output
    if output.is_dir() or (output.exists() and not overwrite):
        raise MissingFileError(f"{output} exists already; choose another -o, or give --overwrite.")
    if not output.absolute().parent.is_dir():
        raise MissingFileError(f"cannot write {output}: there is no folder {output.parent}; make it first.")
    if asked.label and not asked.inputs:
        raise UsageError("--label names an array or column of --inputs, which is missing.")


def _scores(asked: Asked, loaded: Pipeline, folder: Path) -> ScoreTable | None:
    if asked.scores is not None:
        return scores_in(asked.scores, loaded, folder)
    return scores_of(loaded, asked.inputs, asked.alpha, asked.key, asked.label) if asked.inputs else None


def _judged(asked: Asked, loaded: Pipeline, folder: Path, table: ScoreTable | None, report: Report) -> Judged | None:
    if asked.inputs is None or asked.label is None or table is None:
        return None
    controls = asked.controls and (asked.trusted is not None or (folder / KEPT).is_file())
    if asked.controls and not controls:
        report("The pipeline keeps no trusted rows: controls are left out. Give --trusted FILE to have them.")
    judged = judge(
        loaded,
        folder,
        asked.inputs,
        label=asked.label,
        controls=controls,
        trusted=asked.trusted,
        key=asked.key,
        report=report,
    )
    if asked.scores is not None:
        refuse_other_rows(table, asked.scores, asked.inputs, judged.scores["default"][0], np.arange(len(judged.x)))
    return judged


def _write(path: Path, text: str) -> int:
    """Whole or not at all: how many bytes."""
    written = text.encode()
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.write_bytes(written)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return len(written)
