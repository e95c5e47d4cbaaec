"""`compare`: two pipelines on the same inputs, labelled or not."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.data.inputs import open_inputs, read_labels
from madpipe.errors import MissingFileError, ShapeError
from madpipe.evaluation.agreement import flag_agreement, most_different, rank_correlation, separation
from madpipe.evaluation.metrics import operating_metrics
from madpipe.pipeline.scorer import Pipeline
from madpipe.scores import PARTIAL, safe_cell
from madpipe.workflows.progress import row_progress
from madpipe.workflows.score import pipeline_folder, score_batch

Columns = dict[str, Any]
SHOWN = 10  # rows on which they differ most
_KEPT = ("anomaly_score", "p_value", "flagged", "top_components")


def compare(
    first: str,
    second: str,
    inputs: Path,
    *,
    label: str | None = None,
    alpha: float = 0.01,
    key: str | None = None,
    output: Path | None = None,
    trust_code: bool = False,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Agreement of flags and ranks, the rows where p-values differ most, and with labels which one separates better.

    `output` gets every row with both pipelines' scores, p-values, flags and parts.
    """
    if output and not output.absolute().parent.is_dir():
        raise MissingFileError(f"cannot write {output}: there is no folder {output.parent}; make it first.")
    is_anomalous = read_labels(inputs, label) if label else None
    loaded = [Pipeline.load(pipeline_folder(name, trust_code, tracking_uri)) for name in (first, second)]
    ids, a, b = _both_scored(loaded, inputs, key, alpha, label)
    result: dict[str, Any] = {
        "first": first,
        "second": second,
        "rows": len(ids),
        "alpha": alpha,
        "calibration_size": [pipeline.calibration_size for pipeline in loaded],
        "flags": flag_agreement(a["flagged"], b["flagged"]),
        "rank_correlation": rank_correlation(a["anomaly_score"], b["anomaly_score"]),
        "most_different": [
            _row(ids, a, b, row, is_anomalous) for row in most_different(a["p_value"], b["p_value"], SHOWN)
        ],
    }
    if is_anomalous is not None:
        result["separation"] = _judged(loaded, a, b, is_anomalous, f"{inputs}: '{label}'")
    if output:
        _write(output, ids, a, b, is_anomalous)
    return result


def _both_scored(
    loaded: list[Pipeline], path: Path, key: str | None, alpha: float, label: str | None
) -> tuple[list[str], Columns, Columns]:
    """Ids and each pipeline's columns; each reads the file by its own shape, array and column names."""
    tables: list[Columns] = []
    ids: list[str] = []
    for pipeline in loaded:
        without = (label,) if label else ()
        wanted, size = key or pipeline.key, pipeline.batch_size
        stream = open_inputs(
            [path], wanted, size, shape=pipeline.input_shape, columns=pipeline.columns, without=without
        )
        parts = []
        with row_progress(stream.row_count, "Scoring") as progress:
            for batch_ids, x in stream:
                parts.append(score_batch(pipeline, batch_ids, x, alpha))
                progress(sum(map(len, parts)))
        ids = [row for part in parts for row in part.input_id]
        tables.append({name: np.concatenate([getattr(part, name) for part in parts]) for name in _KEPT})
    return ids, tables[0], tables[1]


def _judged(
    loaded: list[Pipeline], a: Columns, b: Columns, is_anomalous: NDArray[np.bool_], source: str
) -> dict[str, Any]:
    if len(is_anomalous) != len(a["p_value"]):
        raise ShapeError(f"{source} has {len(is_anomalous)} labels for {len(a['p_value'])} inputs.")
    if is_anomalous.all() or not is_anomalous.any():
        kind = "all" if is_anomalous.all() else "none"
        raise ShapeError(f"{source} marks {kind} of the inputs; both kinds are needed.")
    figures = separation(a["anomaly_score"], b["anomaly_score"], is_anomalous)
    for name in ("fpr_at_nominal_1", "recall_at_nominal_1"):
        metrics = [
            operating_metrics(table["anomaly_score"], table["p_value"], is_anomalous, pipeline.calibration_size)
            for pipeline, table in zip(loaded, (a, b), strict=True)
        ]
        figures[name] = {"first": metrics[0][name], "second": metrics[1][name]}
    return figures


def _row(ids: list[str], a: Columns, b: Columns, row: int, is_anomalous: NDArray[np.bool_] | None) -> dict[str, Any]:
    labelled = {} if is_anomalous is None else {"is_anomalous": bool(is_anomalous[row])}
    return {
        "input_id": ids[row],
        **labelled,
        "p_values": [float(a["p_value"][row]), float(b["p_value"][row])],
        "top_components": [str(a["top_components"][row]), str(b["top_components"][row])],
    }


def _write(path: Path, ids: list[str], a: Columns, b: Columns, is_anomalous: NDArray[np.bool_] | None) -> None:
    """Whole or not at all, in the format of the name's ending."""
    import pandas as pd

    table = pd.DataFrame({"input_id": ids})
    if is_anomalous is not None:
        table["is_anomalous"] = is_anomalous
    for name in _KEPT:
        table[f"first_{name}"], table[f"second_{name}"] = a[name], b[name]
    partial = path.with_name(path.name + PARTIAL)
    try:
        match path.suffix.lower():
            case ".parquet":
                table.to_parquet(partial, index=False)
            case ".csv":
                table.map(safe_cell).to_csv(partial, index=False)
            case _:
                table.to_json(partial, orient="records", lines=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
