"""`explain`: why inputs were flagged, one explanation for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import check_rows, open_inputs, read_array
from madpipe.editing.explaining import Explainer
from madpipe.editing.explanation import Explanation
from madpipe.editing.trusted_reference import TrustedReference
from madpipe.errors import UnknownNameError
from madpipe.pipeline.folder import refuse_existing
from madpipe.pipeline.numbered_rows import numbered_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.explanation_files import EXPLANATIONS, image_shape, write_explanations
from madpipe.workflows.progress import row_progress
from madpipe.workflows.score import pipeline_folder

MOST_FLAGGED = 5  # that are explained where none is asked for by number
Report = Callable[[str], None]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Chosen:
    """Inputs to explain, with what scoring said of them: x [n, ...]."""

    ids: list[str]
    x: Rows
    p_value: NDArray[np.float64]


@dataclass(frozen=True)
class ExplainResult:
    explanations: list[Explanation]
    image: tuple[int, ...] | None
    output: Path | None


def explain(
    pipeline: str,
    inputs: Path,
    *,
    index: Sequence[int] | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    trusted: Path | None = None,
    image: tuple[int, int] | None = None,
    key: str | None = None,
    alpha: float = 0.01,
    trust_code: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> ExplainResult:
    """Explain the rows `index` of `inputs`, else those flagged at `alpha`, most anomalous first, at most MOST_FLAGGED.

    With `output`, a folder of explanations.json and a PNG for each input, whole or absent. `image`: height and width
    of flat inputs that are images.
    """
    if output is not None:
        refuse_existing(output, overwrite, EXPLANATIONS)
    folder = pipeline_folder(pipeline, trust_code, tracking_uri)
    loaded = Pipeline.load(folder)
    shape = image_shape(loaded.input_shape, image)
    chosen = choose(loaded, inputs, index, key, alpha)
    if not len(chosen.ids):
        report(f"Nothing in {inputs} is flagged at p <= {alpha:g}; name rows with --index to explain them anyway.")
    rows = brought_rows(loaded, trusted, key) if trusted is not None else numbered_rows(folder)
    explainer = make_explainer(loaded, rows)
    if rows is None:
        report("The pipeline keeps no trusted rows: nearest inputs are left out. Give --trusted FILE to have them.")
    explanations = explain_rows(explainer, chosen)
    if output is not None:
        write_explanations(output, explanations, shape)
    return ExplainResult(explanations, shape, output)


def choose(
    pipeline: Pipeline,
    inputs: Path,
    index: Sequence[int] | None,
    key: str | None,
    alpha: float,
    most: int = MOST_FLAGGED,
) -> Chosen:
    """Rows by number, in the order asked for; else `most` of the flagged ones, most anomalous first.

    UnknownNameError for a row that is not there.
    """
    found: dict[int, tuple[float, float, Rows]] = {}
    seen, wanted = 0, None if index is None else set(index)
    stream = open_inputs(
        [inputs], key or pipeline.key, pipeline.batch_size, shape=pipeline.input_shape, columns=pipeline.columns
    )
    with row_progress(stream.row_count, "Scoring") as progress:
        for _, x in stream:
            places = (
                np.arange(len(x)) if wanted is None else np.flatnonzero([seen + i in wanted for i in range(len(x))])
            )
            if len(places):
                scored = pipeline.score(x[places], named_below=0.0)
                for place, score, p in zip(places.tolist(), scored.anomaly_score, scored.p_value, strict=True):
                    if wanted is not None or p <= alpha:
                        found[seen + place] = (float(score), float(p), x[place])
            seen += len(x)
            if wanted is None:
                worst = sorted(found, key=lambda row: -found[row][0])[:most]
                found = {row: found[row] for row in worst}
            progress(seen)
    for row in index or ():
        if row not in found:
            raise UnknownNameError(f"--index {row}: {inputs} has {seen:,} rows, numbered from 0.")
    rows = list(found) if index is None else list(dict.fromkeys(index))
    x = np.stack([found[row][2] for row in rows]) if rows else np.empty((0, *pipeline.input_shape), np.float32)
    return Chosen([str(row) for row in rows], x, np.array([found[row][1] for row in rows]))


def make_explainer(pipeline: Pipeline, rows: tuple[Rows, NDArray[np.int64]] | None) -> Explainer:
    """An explainer of what the pipeline scores, beside trusted rows [n, ...] with their numbers, if there are any."""
    ensemble = pipeline.ensemble
    first = ensemble.folds[0]
    reference = None
    if rows is not None:
        reference = TrustedReference(*rows, first.observer, first.involvement)
    return Explainer(
        ensemble.observer, first.involvement, lambda seen: -ensemble.combined(ensemble.member_scores(seen)), reference
    )


def explain_rows(explainer: Explainer, chosen: Chosen) -> list[Explanation]:
    rows = zip(chosen.ids, chosen.x, chosen.p_value, strict=True)
    explanations = []
    with row_progress(len(chosen.ids), "Explaining") as progress:
        for input_id, x, p in rows:
            explanations.append(explainer.explain(input_id, x, float(p)))
            progress(len(explanations))
    return explanations


def brought_rows(pipeline: Pipeline, path: Path, key: str | None) -> tuple[Rows, NDArray[np.int64]]:
    """All rows of a user's file of inputs, with their numbers."""
    x = check_rows(read_array(path, key or pipeline.key, pipeline.columns), pipeline.input_shape, str(path))
    return x, np.arange(len(x))
