"""The sections of a report, each from what the rooms measure; the numbers that are shown are gathered on the way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.evaluation.calibration_check import CalibrationCheck, flagging_threshold
from madpipe.pipeline.numbered_rows import numbered_rows
from madpipe.pipeline.scorer import Pipeline
from madpipe.reporting import pipeline_page
from madpipe.reporting.explanation_figures import explanation_panels
from madpipe.reporting.report_figures import p_value_figure, roc_figures, score_distribution_figure
from madpipe.scores import ScoreTable
from madpipe.workflows.evaluate import Judged
from madpipe.workflows.explain import brought_rows, choose, explain_rows, make_explainer
from madpipe.workflows.explanation_files import figure_arrays
from madpipe.workflows.explanation_words import lines
from madpipe.workflows.report_asked import Asked
from madpipe.workflows.report_measures import (
    calibration_checks,
    component_pictures,
    kept_chunks,
    quality_figure,
    quality_of,
    site_rows,
    spectrum_figures,
)
from madpipe.workflows.report_scores import refuse_other_rows


def about_decomposition(
    loaded: Pipeline, folder: Path, image: tuple[int, ...] | None, figures: dict[str, Any]
) -> Sequence[str]:
    quality = quality_of(loaded, folder, kept_chunks(loaded, folder, "calibration"))
    figures["decomposition"] = {name: {v: float(np.mean(x)) for v, x in of.items()} for name, of in quality.items()}
    unit = "nats per input"
    trained_on = kept_chunks(loaded, folder, "fit")
    spectra = spectrum_figures(loaded.method, trained_on) if trained_on else {}
    return (
        pipeline_page.decomposition_section(quality, len(loaded.ensemble.folds), unit, quality_figure(quality, unit)),
        pipeline_page.components_section(site_rows(loaded), spectra, component_pictures(loaded.method, image)),
    )


def about_calibration(asked: Asked, loaded: Pipeline, judged: Judged | None, figures: dict[str, Any]) -> str:
    normal = {}
    if judged is not None and asked.inputs is not None:
        normal[f"normal rows of {asked.inputs.name}"] = judged.scores["default"][1][~judged.is_anomalous]
    checks: Mapping[str, CalibrationCheck] = calibration_checks(loaded, normal)
    figures["calibration"] = {name: check.to_json() for name, check in checks.items()}
    size = loaded.calibration_size
    note = f"{size:,} calibration rows: the smallest p-value there can be is {1 / (size + 1):.3g}."
    drawn = p_value_figure(checks) if checks else None
    return pipeline_page.calibration_section(figures["calibration"], drawn, loaded.facts["crossed"], note)


def about_scores(asked: Asked, loaded: Pipeline, table: ScoreTable, figures: dict[str, Any]) -> str:
    flagged = int(table.flagged.sum())
    figures["scores"] = {"rows": len(table), "flagged": flagged}
    calibration = -np.concatenate(list(loaded.ensemble.calibration.combined))
    source = asked.inputs or asked.scores
    assert source is not None
    drawn = score_distribution_figure(
        (("trusted calibration rows", calibration), (source.name, table.anomaly_score)),
        threshold=_threshold(asked, loaded, table, calibration),
        alpha=None if asked.scores else asked.alpha,
    )
    rule = "by the rule of that file" if asked.scores else f"at p ≤ {asked.alpha:g}"
    said = f"{len(table):,} inputs of {source.name}, {flagged:,} flagged {rule}."
    return pipeline_page.scores_section(drawn, "Share of each group by anomaly score.", said)


def _threshold(asked: Asked, loaded: Pipeline, table: ScoreTable, calibration: Any) -> float | None:
    """Where flags begin; the lowest flagged score where the rule is not known or folds rank by scores of their own."""
    if asked.scores is None and not loaded.facts["crossed"]:
        return flagging_threshold(calibration, asked.alpha)
    return float(table.anomaly_score[table.flagged].min()) if table.flagged.any() else None


def about_separation(asked: Asked, judged: Judged, figures: dict[str, Any]) -> str:
    figures["evaluation"] = judged.result
    drawn = roc_figures(judged.scores["default"][0], judged.is_anomalous, judged.strongest_controls())
    return pipeline_page.evaluation_section(judged.result, drawn, asked.inputs.name if asked.inputs else "")


def about_flagged(
    asked: Asked,
    loaded: Pipeline,
    folder: Path,
    table: ScoreTable,
    image: tuple[int, ...] | None,
    figures: dict[str, Any],
) -> str:
    places = np.flatnonzero(table.flagged)
    worst = places[np.argsort(-table.anomaly_score[places], kind="stable")]
    rows = [
        {
            "input": table.input_id[i],
            "anomaly score": float(table.anomaly_score[i]),
            "p-value": f"{table.p_value[i]:.3g}",
            "most unusual parts": table.top_components[i],
        }
        for i in worst[: pipeline_page.SHOWN_FLAGGED]
    ]
    explained = []
    figures["explained"] = []
    if asked.inputs is not None and len(worst) and asked.explain:
        chosen = choose(loaded, asked.inputs, worst[: asked.explain].tolist(), asked.key, asked.alpha)
        trusted = brought_rows(loaded, asked.trusted, asked.key) if asked.trusted else numbered_rows(folder)
        explanations = explain_rows(make_explainer(loaded, trusted), chosen)
        if asked.scores is not None:
            again = np.array([one.anomaly_score for one in explanations])
            refuse_other_rows(table, asked.scores, asked.inputs, again, worst[: asked.explain])
        for one in explanations:
            document = one.to_json()
            words = "\n".join(lines(document))
            explained.append(
                pipeline_page.explanation(one.input_id, words, explanation_panels(**figure_arrays(one, image)))
            )
            figures["explained"].append(
                {key: document[key] for key in ("input_id", "p_value", "surprise_bits", "named", "restores")}
            )
    note = (
        "" if asked.inputs else "With --inputs FILE, the inputs that were scored, the report explains them one by one."
    )
    return pipeline_page.flagged_section(rows, len(worst), explained, note)
