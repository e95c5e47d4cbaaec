"""How `fit` and `decompose` begin: settings, target and trusted rows, the store, and what is said of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from madpipe.config.resolving import method_of, resolved
from madpipe.config.schema import PipelineConfig
from madpipe.data.splits import SPLIT_ROWS, Split
from madpipe.decomposition.checkpoints import damaged, newest_whole
from madpipe.pipeline.fitting import TrainingPlan
from madpipe.pipeline.source import Source, make_source, own_source
from madpipe.pipeline.workspace import Workspace
from madpipe.tasks.build import build_task
from madpipe.tracking.addresses import redact
from madpipe.tracking.runs import Store
from madpipe.tracking.sending import spooling_store

Report = Callable[[str], None]


def stored_settings(config: PipelineConfig) -> dict[str, Any]:
    """The resolved config as it may be stored: a tracking URI loses its password."""
    settings = resolved(config)
    uri = settings["tracking"]["tracking_uri"]
    return settings | {"tracking": settings["tracking"] | {"tracking_uri": redact(uri) if uri else None}}


def run_name(config: PipelineConfig, method: str) -> str:
    return config.tracking.run_name or f"{method}-seed{config.seed}"


def find_source(config: PipelineConfig, base: Path) -> Source:
    """The target and trusted rows of a config: a built-in task's, or the user's own."""
    if config.task is not None:
        task = build_task(config.task)
        source = make_source(task.target, task.sites, task.trusted, "x", task.name)
        return replace(source, mechanisms=task.mechanisms)
    assert config.target is not None
    assert config.data is not None
    return own_source(config.target.model_dump(), config.data.model_dump(), base)


def find_store(
    config: PipelineConfig, tracking_uri: str | None, output: Path, report: Report, absent: bool = False
) -> Store | None:
    """None where tracking is disabled. What the store cannot take is kept beside `output`; `absent`: from the start."""
    if not config.tracking.enabled:
        return None
    address = tracking_uri or config.tracking.tracking_uri
    return spooling_store(address, config.tracking.experiment, output, report, absent=absent)


def identity(
    verb: str, settings: Mapping[str, Any], source: Source, decomposition: str | None = None
) -> dict[str, Any]:
    """What must be the same for interrupted work to be continued; `decomposition` is the digest of one taken up."""
    return {
        "verb": verb,
        "settings": {k: v for k, v in settings.items() if k != "tracking"},
        "rows": source.digest,
        "target": source.target.weights_digest,
        "decomposition": decomposition,
    }


def training_plan(config: PipelineConfig, source: Source, workspace: Workspace) -> TrainingPlan:
    method_class, method_config = method_of(config)
    return TrainingPlan(
        source=source,
        method_class=method_class,
        method_config=method_config,
        clustering=config.clustering.model_dump(),
        seed=config.seed,
        checkpoints=workspace.checkpoints,
        trainer_options=config.trainer.model_dump(exclude={"enable_progress_bar"}),
    )


def announce(report: Report, source: Source, splits: Sequence[Split], workspace: Workspace) -> None:
    split = splits[0]
    sizes = f"{len(split.fit):,} to fit, {len(split.validation):,} to validate, {len(split.calibration):,} to calibrate"
    if len(splits) > 1:
        sizes += f", in each of {len(splits)} folds"
    if len(source.trusted) < SPLIT_ROWS and len(splits) > 1:
        sizes = f"cross-fitted in {len(splits)} folds, since fewer than 200: p-values hold within a factor of two"
    report(f"{source.name}: {len(source.trusted):,} trusted rows, {sizes}; sites {_site_names(source)}.")
    tell_resumed(report, workspace)


def announce_decomposition(report: Report, source: Source, split: Split, workspace: Workspace) -> None:
    """As `fit` would split the rows, of which a decomposition needs no calibration rows."""
    sizes = f"{len(split.fit):,} to train on, {len(split.validation):,} to validate"
    kept = f"{len(split.calibration):,} kept for the calibration of a later fit"
    report(f"{source.name}: {len(source.trusted):,} trusted rows, {sizes}, {kept}; sites {_site_names(source)}.")
    if len(source.trusted) < SPLIT_ROWS:
        report(
            f"Fewer than {SPLIT_ROWS} trusted rows: a fit that takes this up ranks inputs among those "
            f"{len(split.calibration)} alone, where a fit by itself would cross-fit."
        )
    tell_resumed(report, workspace)


def tell_resumed(report: Report, workspace: Workspace) -> None:
    """Also of damaged checkpoints, which training passes over."""
    if not (workspace.resumed and workspace.checkpoints.exists()):
        return
    report("Continuing the interrupted training of the same config.")
    for folder in sorted(workspace.checkpoints.iterdir()):
        for checkpoint in damaged(folder):
            before = newest_whole(folder)
            instead = f"{before.name} is taken" if before else "this training starts over"
            report(f"Warning: {checkpoint} is damaged and passed over; {instead}, which changes no result.")


def _site_names(source: Source) -> str:
    return ", ".join(site.name for site in source.sites)
