"""Processes that train one decomposition together: one leads and does all else, the others follow it in training alone.

Every process runs the same command (Lightning starts those of one machine; torchrun and SLURM start all). A follower
logs nothing, writes nothing and prints nothing.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from madpipe.config.schema import PipelineConfig, TrainerConfig
from madpipe.data.splits import Split
from madpipe.errors import DivergedError, OutOfTimeError
from madpipe.pipeline.source import Source
from madpipe.pipeline.workspace import join_workspace
from madpipe.workflows.starting import training_plan


def follows(trainer: TrainerConfig, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is not the first of several."""
    if not trainer.several_processes:
        return False
    if "RANK" in environment:
        return int(environment["RANK"]) > 0
    if "LOCAL_RANK" in environment or "NODE_RANK" in environment:
        return any(int(environment.get(name, 0)) > 0 for name in ("LOCAL_RANK", "NODE_RANK"))
    return int(environment.get("SLURM_PROCID", 0)) > 0


def follow(
    config: PipelineConfig, output: Path, identity: Mapping[str, Any], source: Source, splits: Sequence[Split]
) -> NoReturn:
    """Take part in the training of every split, then end the process.

    What ends the training early ends it in the leader too, which says so.
    """
    if not splits:
        raise SystemExit(0)
    plan = replace(training_plan(config, source, join_workspace(output, identity)), clustering={"enabled": False})
    with suppress(DivergedError, OutOfTimeError, SystemExit):
        for k, split in enumerate(splits):
            plan.train(split, k, lambda fold, step, terms: None)
    raise SystemExit(0)
