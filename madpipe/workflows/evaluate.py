"""`evaluate`: labelled inputs show how well the pipeline separates and whether its p-values keep their word."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import check_rows, read_array, read_labels
from madpipe.errors import MissingFileError, ShapeError
from madpipe.evaluation.metrics import operating_metrics
from madpipe.pipeline.controls import ControlScores, control_scores
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import kept_rows, rows_from
from madpipe.workflows.evaluation_runs import log_evaluation
from madpipe.workflows.score import pipeline_folder

Floats = NDArray[np.float64]
Scores = dict[str, tuple[Floats, Floats]]  # name -> (anomaly scores, p-values)


def evaluate(
    pipeline: str,
    labelled: Path,
    *,
    label: str,
    controls: bool = False,
    trusted: Path | None = None,
    untrusted: Path | None = None,
    key: str | None = None,
    figure: Path | None = None,
    log: bool = False,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Metrics of the default score, of every member and, if asked, of the controls.

    Labels judge; nothing is fitted on them. Offline controls learn from the unlabelled rows of `untrusted`.
    """
    if figure and not figure.absolute().parent.is_dir():
        raise MissingFileError(f"cannot draw {figure}: there is no folder {figure.parent}; make it first.")
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder)
    judged = judge(
        loaded,
        folder,
        labelled,
        label=label,
        controls=controls,
        trusted=trusted,
        untrusted=untrusted,
        key=key,
        report=report,
    )
    draw = partial(_draw, judged=judged, labelled=labelled)
    if figure:
        draw(figure)
    if log:
        log_evaluation(folder, loaded.config, labelled, judged.x, judged.result, draw, tracking_uri)
    return judged.result


@dataclass(frozen=True)
class Judged:
    """Labelled inputs x [N, ...], every score of them, and the figures that `evaluate` tells."""

    x: NDArray[np.float32]
    is_anomalous: NDArray[np.bool_]
    scores: Scores
    controls: dict[str, ControlScores]
    result: dict[str, Any]

    def strongest_controls(self, count: int = 4) -> dict[str, Floats]:
        """Anomaly scores of those with the highest AUROC."""
        names = sorted(self.controls, key=lambda name: -self.result["controls"][name]["auroc"])[:count]
        return {name: self.controls[name].anomaly_score for name in names}


def judge(
    loaded: Pipeline,
    folder: Path,
    labelled: Path,
    *,
    label: str,
    controls: bool,
    trusted: Path | None = None,
    untrusted: Path | None = None,
    key: str | None = None,
    report: Callable[[str], None],
) -> Judged:
    """`evaluate` of a pipeline that is loaded, nothing drawn or logged."""
    x = _rows(loaded, labelled, key)
    is_anomalous = read_labels(labelled, label)
    _check_labels(is_anomalous, len(x), labelled, label)
    scores = pipeline_scores(loaded, x)
    size = loaded.calibration_size
    result: dict[str, Any] = {
        "rows": len(x),
        "anomalous": int(is_anomalous.sum()),
        "calibration_size": size,
        "default": operating_metrics(*scores["default"], is_anomalous, size),
        "members": {n: operating_metrics(*scores[n], is_anomalous, size) for n in loaded.member_names},
    }
    others: dict[str, ControlScores] = {}
    if controls:
        rows = (
            rows_from(trusted, key or loaded.key, loaded.input_shape, loaded.facts["seed"], loaded.columns)
            if trusted
            else kept_rows(folder)
        )
        others = control_scores(loaded, rows, x, report, _rows(loaded, untrusted, key) if untrusted else None)
        control_size = len(rows.calibration)
        result["controls"] = {
            name: {**operating_metrics(score, p, is_anomalous, control_size), "passes": passes}
            for name, (score, p, passes) in others.items()
        }
    return Judged(x, is_anomalous, scores, others, result)


def pipeline_scores(pipeline: Pipeline, x: NDArray[np.float32]) -> Scores:
    """The default score and every member's, each with p-values of its own calibration."""
    size = pipeline.batch_size
    parts = [pipeline.score(x[i : i + size], named_below=0) for i in range(0, len(x), size)]
    ranked = [pipeline.member_p_values(x[i : i + size]) for i in range(0, len(x), size)]
    default = np.concatenate([p.anomaly_score for p in parts]), np.concatenate([p.p_value for p in parts])
    members = {
        name: (np.concatenate([p.members[name] for p in parts]), np.concatenate([r[name] for r in ranked]))
        for name in pipeline.member_names
    }
    return {"default": default, **members}


def _rows(pipeline: Pipeline, path: Path, key: str | None) -> NDArray[np.float32]:
    """The inputs in a file, [N, ...] of the pipeline's own shape."""
    return check_rows(read_array(path, key or pipeline.key, pipeline.columns), pipeline.input_shape, str(path))


def _check_labels(is_anomalous: NDArray[np.bool_], rows: int, path: Path, label: str) -> None:
    if len(is_anomalous) != rows:
        raise ShapeError(f"{path}: '{label}' has {len(is_anomalous)} labels for {rows} inputs.")
    if not is_anomalous.any() or is_anomalous.all():
        raise ShapeError(
            f"{path}: '{label}' marks {'all' if is_anomalous.all() else 'none'} of the inputs; both kinds are needed."
        )


def _draw(figure: Path, judged: Judged, labelled: Path) -> None:
    from madpipe.reporting.figures import evaluation_figure, save_figure

    default, p_values = judged.scores["default"]
    flagged = p_values <= 0.01
    drawn = evaluation_figure(
        default,
        judged.is_anomalous,
        threshold=float(default[flagged].min()) if flagged.any() else None,
        members={name: score for name, (score, _) in judged.scores.items() if name != "default"},
        controls=judged.strongest_controls(),
        title=labelled.name,
    )
    save_figure(drawn, figure)
