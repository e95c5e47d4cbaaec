"""`decompose`: a config becomes a decomposition folder, judged and logged, that `fit` can take up."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from madpipe.config.resolving import taken_of
from madpipe.config.schema import PipelineConfig
from madpipe.decomposition.assessment import Assessment, assess
from madpipe.decomposition.method import Method
from madpipe.decomposition.selection import shortest
from madpipe.errors import ConfigError, TrackingError
from madpipe.pipeline.decomposition_folder import write_decomposition
from madpipe.pipeline.fitting import chunks_of, one_split
from madpipe.pipeline.folder import DECOMPOSITION, publish, refuse_existing, staging
from madpipe.pipeline.rehearsal import refuse_unrepeatable_target
from madpipe.pipeline.workspace import open_workspace
from madpipe.tracking.runs import Run
from madpipe.workflows.decomposition_figures import draw_decomposition
from madpipe.workflows.decomposition_runs import DecompositionRecord
from madpipe.workflows.following import follow, follows
from madpipe.workflows.progress import training_progress
from madpipe.workflows.starting import (
    Report,
    announce_decomposition,
    find_source,
    find_store,
    identity,
    run_name,
    stored_settings,
    training_plan,
)


@dataclass(frozen=True)
class DecomposeResult:
    """seconds: of everything, every seed included. best: the seed of least description length on validation rows."""

    decomposition: Path
    run_id: str | None
    model_uri: str | None
    seconds: float
    best: int
    seeds: Sequence[Assessment]
    unsent: Path | None


def decompose(
    config: PipelineConfig,
    *,
    base: Path,
    output: Path | None,
    overwrite: bool = False,
    tracking_uri: str | None = None,
    spool: bool = False,
    report: Report,
) -> DecomposeResult:
    """Train every seed on the rows that a `fit` of this config would fit on, judge, draw, write and log.

    `base` is the folder that the config's paths start from. Below 200 trusted rows, the rows are those of the first
    fold that `fit` would make.
    """
    started = time.monotonic()
    if taken_of(config):
        raise ConfigError("decomposition.from: decompose trains a decomposition; name a method in its place.")
    settings = stored_settings(config)
    name = run_name(config, settings["decomposition"]["method"])
    output = (output or Path(f"{config.tracking.experiment}-{name}-decomposition")).absolute()
    refuse_existing(output, overwrite, DECOMPOSITION)
    source = find_source(config, base)
    split = one_split(len(source.trusted), settings["calibration"], config.seed)
    refuse_unrepeatable_target(source)
    own = identity("decompose", settings, source)
    if follows(config.trainer):
        follow(config, output, own, source, [split])
    store = find_store(config, tracking_uri, output, report, spool)
    with open_workspace(output, own) as workspace:
        announce_decomposition(report, source, split, workspace)
        record = DecompositionRecord(store, name, settings, settings["decomposition"], source, [split], workspace)
        with record.decomposition_run() as run:
            method = _train(config, record, run)
            seeds = assess(method, chunks_of(source, split.validation), source.mechanisms)
            best = shortest([seed.description_length for seed in seeds])
            run_id = store.real_id(run.id) if store and run else None
            with staging(output) as staged:
                draw_decomposition(staged / "figures", method, best, seeds, source, split)
                documents = [assessment.document() for assessment in seeds]
                write_decomposition(staged, source, settings, method, split, documents, best, run_id)
                publish(staged, output)
            model_uri = _log(record, run, output, seeds, best)
    unsent = store.settle() if store else None
    return DecomposeResult(
        decomposition=output,
        run_id=store.real_id(run.id) if store and run else None,
        model_uri=model_uri,
        seconds=time.monotonic() - started,
        best=best,
        seeds=seeds,
        unsent=unsent,
    )


def _train(config: PipelineConfig, record: DecompositionRecord, run: Run | None) -> Method:
    plan = training_plan(config, record.source, record.workspace)
    with training_progress(plan.method_config.steps, 1, config.trainer.enable_progress_bar) as progress:
        return plan.train(record.splits[0], 0, progress, run.lightning_logger() if run else False)


def _log(
    record: DecompositionRecord, run: Run | None, output: Path, seeds: Sequence[Assessment], best: int
) -> str | None:
    try:
        return record.log_seeds(run, output, seeds, best)
    except TrackingError as error:
        raise TrackingError(f"{output} is complete, but could not be logged: {error}") from error
