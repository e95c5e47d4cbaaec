"""`fit`: a config becomes a fitted, calibrated, logged and registered pipeline folder."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.config.resolving import method_of, resolved
from madpipe.config.schema import PipelineConfig
from madpipe.data.splits import Split
from madpipe.errors import DamagedFileError, TrackingError
from madpipe.pipeline.fitting import FitPlan, as_rows, fit_folds, make_splits
from madpipe.pipeline.fold import Fold
from madpipe.pipeline.folder import publish, refuse_existing, staging
from madpipe.pipeline.rehearsal import rehearse
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.source import Source, make_source, own_source
from madpipe.pipeline.workspace import Workspace, open_workspace
from madpipe.pipeline.writing import write_pipeline
from madpipe.tasks.build import build_task
from madpipe.tracking.addresses import redact
from madpipe.tracking.runs import Run, Store, open_store
from madpipe.workflows.fit_runs import FitRecord
from madpipe.workflows.progress import training_progress

Report = Callable[[str], None]


@dataclass(frozen=True)
class FitResult:
    pipeline: Path
    run_id: str | None
    decomposition_run_id: str | None
    model_uri: str | None
    seconds: float
    quality: Mapping[str, float]
    summary: str


def fit(
    config: PipelineConfig,
    *,
    base: Path,
    output: Path | None,
    overwrite: bool = False,
    tracking_uri: str | None = None,
    report: Report,
) -> FitResult:
    """Decompose, extract, fit, calibrate, write and log. `base` is the folder that the config's paths start from."""
    started = time.monotonic()
    settings = _without_credentials(resolved(config))
    name = config.tracking.run_name or f"{settings['decomposition']['method']}-seed{config.seed}"
    output = (output or Path(f"{config.tracking.experiment}-{name}")).absolute()
    refuse_existing(output, overwrite)
    source = find_source(config, base)
    splits = make_splits(len(source.trusted), settings["calibration"], config.seed)
    rehearse(source, splits[0], *method_of(config), settings)
    store = _open_store(config, tracking_uri)
    with open_workspace(output, _identity(settings, source)) as workspace:
        _announce(report, source, splits, workspace)
        record = FitRecord(store, name, settings, source, splits, workspace)
        with record.decomposition_run() as run:
            folds, quality, precision = _train(config, settings, source, splits, workspace, run)
            with staging(output) as staged:
                keep = config.data.keep_trusted if config.data else True
                write_pipeline(staged, source, settings, folds, quality, splits, precision, keep)
                _refuse_changed_scores(staged, folds, source)
                model_id = record.log_decomposition(run, quality[0])
                publish(staged, output)
    logged = _log(record, output, run, model_id, folds)
    calibration_rows = sum(len(fold.calibration) for fold in folds)
    return FitResult(
        pipeline=output,
        run_id=logged[0],
        decomposition_run_id=run.id if run else None,
        model_uri=logged[1],
        seconds=time.monotonic() - started,
        quality=quality[0],
        summary=f"{calibration_rows} calibration rows, {len(folds)} fold{'s' if len(folds) > 1 else ''}",
    )


def find_source(config: PipelineConfig, base: Path) -> Source:
    """The target and trusted rows of a config: a built-in task's, or the user's own."""
    if config.task is not None:
        task = build_task(config.task)
        return make_source(task.target, task.sites, task.trusted, "x", task.name)
    assert config.target is not None
    assert config.data is not None
    return own_source(config.target.model_dump(), config.data.model_dump(), base)


def _without_credentials(settings: dict[str, Any]) -> dict[str, Any]:
    """The resolved config as it may be stored: a tracking URI loses its password."""
    uri = settings["tracking"]["tracking_uri"]
    tracking = settings["tracking"] | {"tracking_uri": redact(uri) if uri else None}
    return settings | {"tracking": tracking}


def _open_store(config: PipelineConfig, tracking_uri: str | None) -> Store | None:
    if not config.tracking.enabled:
        return None
    return open_store(tracking_uri or config.tracking.tracking_uri, config.tracking.experiment)


def _identity(settings: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """What must be the same for an interrupted fit to be continued."""
    rows = hashlib.sha256(np.ascontiguousarray(source.trusted).tobytes()).hexdigest()
    return {
        "settings": {k: v for k, v in settings.items() if k != "tracking"},
        "rows": rows,
        "target": source.target.weights_digest,
    }


def _announce(report: Report, source: Source, splits: Sequence[Split], workspace: Workspace) -> None:
    split = splits[0]
    sizes = f"{len(split.fit):,} to fit, {len(split.validation):,} to validate, {len(split.calibration):,} to calibrate"
    if len(splits) > 1:
        sizes = f"cross-fitted in {len(splits)} folds, since fewer than 200: p-values hold within a factor of two"
    sites = ", ".join(site.name for site in source.sites)
    report(f"{source.name}: {len(source.trusted):,} trusted rows, {sizes}; sites {sites}.")
    if workspace.resumed and workspace.checkpoints.exists():
        report("Continuing the interrupted fit of the same config.")


def _train(
    config: PipelineConfig,
    settings: Mapping[str, Any],
    source: Source,
    splits: Sequence[Split],
    workspace: Workspace,
    run: Run | None,
) -> tuple[list[Fold], list[dict[str, float]], str]:
    method_class, method_config = method_of(config)
    trainer = config.trainer.model_dump(exclude={"enable_progress_bar"})
    plan = FitPlan(
        target=source.target.module,
        sites=source.sites,
        output=source.target.output,
        method_class=method_class,
        method_config=method_config,
        x=as_rows(source.trusted),
        splits=splits,
        config=settings,
        seed=config.seed,
        checkpoints=workspace.checkpoints,
        trainer_options=trainer,
    )
    with training_progress(method_config.steps, len(splits), config.trainer.enable_progress_bar) as progress:
        return fit_folds(plan, progress, run.lightning_logger() if run else False)


def _refuse_changed_scores(staged: Path, folds: Sequence[Fold], source: Source) -> None:
    """The folder, read back, must score as what was fitted: a factory that needs more than its own file fails here."""
    loaded = Pipeline.load(staged)
    rows = source.trusted[:8]
    fitted = np.stack([fold.score(as_rows(rows), 8)[0] for fold in folds]).mean(0)
    if not np.allclose(-loaded.score(rows).anomaly_score, fitted, rtol=1e-5, atol=1e-8):
        raise DamagedFileError(
            "the pipeline scores differently after it was written and read back; the target's factory may be random."
        )


def _log(
    record: FitRecord, output: Path, run: Run | None, model_id: str | None, folds: Sequence[Fold]
) -> tuple[str | None, str | None]:
    if run is None or model_id is None:
        return None, None
    scores = np.concatenate([fold.calibration for fold in folds])
    figures = {
        "rows": float(len(scores)),
        "anomaly_score_median": -float(np.median(scores)),
        "anomaly_score_max": -float(scores.min()),
    }
    try:
        return record.log_detectors(output, (run.id, model_id), figures)
    except TrackingError as error:
        raise TrackingError(f"{output} is complete, but could not be logged: {error}") from error
