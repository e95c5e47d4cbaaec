"""`fit`: a config becomes a fitted, calibrated, logged and registered pipeline folder."""

import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madpipe.config.resolving import method_of
from madpipe.config.schema import PipelineConfig
from madpipe.errors import DamagedFileError, TrackingError
from madpipe.pipeline.ensemble import Ensemble
from madpipe.pipeline.fitting import Decomposed, as_rows, best_of_seeds, chunks_of, fit_pipeline, make_splits
from madpipe.pipeline.folder import folder_digest, publish, refuse_existing, staging
from madpipe.pipeline.rehearsal import rehearse, untrained
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.source import Source
from madpipe.pipeline.workspace import open_workspace, published_unrecorded
from madpipe.pipeline.writing import write_pipeline
from madpipe.tracking.runs import Run
from madpipe.workflows.fit_runs import DecompositionLink, FitRecord
from madpipe.workflows.following import follow, follows
from madpipe.workflows.progress import training_progress
from madpipe.workflows.starting import (
    Report,
    announce,
    find_source,
    find_store,
    identity,
    run_name,
    stored_settings,
    training_plan,
)
from madpipe.workflows.taking import take


@dataclass(frozen=True)
class FitResult:
    pipeline: Path
    run_id: str | None
    decomposition_run_id: str | None
    model_uri: str | None
    seconds: float
    quality: Mapping[str, float]
    summary: str
    unsent: Path | None


def fit(
    config: PipelineConfig,
    *,
    base: Path,
    output: Path | None,
    overwrite: bool = False,
    tracking_uri: str | None = None,
    spool: bool = False,
    report: Report,
) -> FitResult:
    """Decompose (or take a decomposition), extract, fit, calibrate, write and log.

    `base` is the folder that the config's paths start from. spool: begin without a tracking server that answers.
    """
    started = time.monotonic()
    settings = stored_settings(config)
    taken = take(config, base, tracking_uri)
    decomposition = taken.folder.settings if taken else settings["decomposition"]
    taken_from = taken.folder.digest if taken else None
    name = run_name(config, decomposition["method"])
    output = (output or Path(f"{config.tracking.experiment}-{name}")).absolute()
    source = find_source(config, base)
    if taken:
        splits = taken.splits(source, settings["calibration"], config.seed)
    else:
        splits = make_splits(len(source.trusted), settings["calibration"], config.seed)
    own = identity("fit", settings, source, taken_from)
    refuse_existing(output, overwrite or published_unrecorded(output, own))
    if follows(config.trainer):
        follow(config, output, own, source, [] if taken else splits)
    rehearse(source, splits[0], taken.start(source) if taken else untrained(source, *method_of(config)), settings)
    store = find_store(config, tracking_uri, output, report, spool)
    with open_workspace(output, own) as workspace:
        announce(report, source, splits, workspace)
        if taken:
            taken.announce(report, source)
        record = FitRecord(store, name, settings, decomposition, source, splits, workspace)
        with nullcontext() if taken else record.decomposition_run() as run:
            decomposed = taken.decomposed(source, splits) if taken else _train(config, record, run, report)
            ensemble, precision = fit_pipeline([part.method for part in decomposed], source, splits, settings)
            with staging(output) as staged:
                used = [taken.seed] if taken else [part.seed for part in decomposed]
                origin = {"seeds": decomposition["seeds"], "used": used, "taken_from": taken_from}
                facts = {"precision": precision, "decomposition": origin}
                keep = config.data.keep_trusted if config.data else True
                write_pipeline(staged, source, settings, ensemble, decomposed, splits, facts, keep)
                _refuse_changed_scores(staged, ensemble, source)
                link = taken.link(store) if taken else record.log_chosen(run, decomposed)
                workspace.note(published=folder_digest(staged))
                publish(staged, output, keep_work=True)
        logged = _log(record, output, link, ensemble)
        shutil.rmtree(workspace.folder, ignore_errors=True)
    unsent = store.settle() if store else None
    return FitResult(
        pipeline=output,
        run_id=store.real_id(logged[0]) if store and logged[0] else None,
        decomposition_run_id=store.real_id(link.run_id) if store and link.run_id else link.run_id,
        model_uri=logged[1],
        seconds=time.monotonic() - started,
        quality=decomposed[0].quality,
        unsent=unsent,
        summary=f"{ensemble.calibration.size} calibration rows, {_counted(len(splits), 'decomposition')}",
    )


def _train(config: PipelineConfig, record: FitRecord, run: Run | None, report: Report) -> list[Decomposed]:
    """One decomposition for each split: the best of its seeds."""
    plan = training_plan(config, record.source, record.workspace)
    wanted, logger = config.trainer.enable_progress_bar, run.lightning_logger() if run else False
    decomposed = []
    with training_progress(plan.method_config.steps, len(record.splits), wanted) as progress:
        for k, split in enumerate(record.splits):
            method = plan.train(split, k, progress, logger)
            decomposed.append(best_of_seeds(method, chunks_of(record.source, split.validation)))
    for k, part in enumerate(decomposed):
        if len(part.lengths) > 1:
            report(_choice(part, f"Fold {k}: of" if len(decomposed) > 1 else "Of"))
    return decomposed


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''}"


def _choice(part: Decomposed, of: str) -> str:
    nats = ", ".join(f"{length:.4g}" for length in part.lengths)
    return (
        f"{of} {len(part.lengths)} seeds trained, seed {part.seed} is used: it has the least description length on "
        f"trusted validation rows (nats per input, seeds in order: {nats})."
    )


def _refuse_changed_scores(staged: Path, ensemble: Ensemble, source: Source) -> None:
    """The folder, read back, must score as what was fitted: a factory that needs more than its own file fails here."""
    loaded = Pipeline.load(staged)
    rows = source.trusted[:8]
    fitted = ensemble.combined(ensemble.scores_of(as_rows(rows), len(rows)))
    if not np.allclose(-loaded.score(rows).anomaly_score, fitted, rtol=1e-5, atol=1e-8):
        raise DamagedFileError(
            "the pipeline scores differently after it was written and read back; the target's factory may be random."
        )


def _log(record: FitRecord, output: Path, link: DecompositionLink, ensemble: Ensemble) -> tuple[str | None, str | None]:
    if record.store is None:
        return None, None
    scores = np.concatenate(list(ensemble.calibration.combined))
    try:
        return record.log_detectors(output, link, -scores)
    except TrackingError as error:
        raise TrackingError(
            f"{output} is complete, but could not be logged: {error} The same command logs it later."
        ) from error
