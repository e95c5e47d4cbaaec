"""What scoring leaves in MLflow: a run with the summary, the table and, where drift is watched, its course."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from madpipe.pipeline.drift import DriftReport
from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.scorer import Pipeline
from madpipe.reporting.drift_figure import drift_figure
from madpipe.reporting.figures import save_figure


def log_scores(
    folder: Path,
    pipeline: Pipeline,
    inputs: Sequence[Path],
    output: str | None,
    rule: Mapping[str, float],
    figures: Mapping[str, float],
    drift: DriftReport | None,
    tracking_uri: str | None,
) -> None:
    """A run of its own, linked to the pipeline by its digest."""
    from madpipe.tracking.runs import Run, open_store

    def log_drift(run: Run, drift: DriftReport) -> None:
        history = drift.history
        points = zip(history.at, history.log10_evidence, strict=True)
        run.history([(at, {"monitor/log10_evidence": evidence}) for at, evidence in points])
        run.metrics({"monitor/seen": drift.seen, "monitor/alarm": float(drift.alarmed_at is not None)})
        with TemporaryDirectory() as scratch:
            figure = drift_figure(history.at, history.log10_evidence, drift.level, drift.alarmed_at)
            save_figure(figure, Path(scratch) / "drift.png")
            run.artifact(Path(scratch) / "drift.png", "figures")

    tracking = pipeline.config["tracking"]
    store = open_store(tracking_uri or tracking["tracking_uri"], tracking["experiment"])
    with store.run(f"score {inputs[0].name}", "score", {"pipeline_digest": folder_digest(folder)}) as run:
        run.params({"data.name": ", ".join(path.name for path in inputs)[:400], **rule})
        run.metrics({f"score/{name}": value for name, value in figures.items()})
        if drift:
            log_drift(run, drift)
        if output and output != "-":
            run.artifact(Path(output), "tables")
