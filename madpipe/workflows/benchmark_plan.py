"""What a suite asks for, cell by cell, each under a name that changes with whatever decides its result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe import __version__
from madpipe.components.checkpoint import load_json
from madpipe.config.resolving import resolved
from madpipe.config.suite import Suite, pipeline_config
from madpipe.errors import DamagedFileError
from madpipe.tasks.build import task_name

CELLS = "cells"
FORMAT = 1  # of a cell's document: raise it where what is measured changes
CONTROLS = "controls"


@dataclass(frozen=True)
class Cell:
    """One task with one seed: a pipeline fitted and judged on it, or (`pipeline` None) every control.

    task: the task's name without its seed. config: the resolved config. controls: the name of the cell whose controls
    are ranked on the same rows as this pipeline.
    """

    name: str
    task: str
    seed: int
    pipeline: str | None
    config: Mapping[str, Any]
    offline: bool = False
    controls: str | None = None

    def path(self, folder: Path) -> Path:
        return folder / CELLS / f"{self.name}.json"

    def read(self, folder: Path) -> dict[str, Any] | None:
        """The cell's document; None where it has yet to be made, or is damaged."""
        try:
            return load_json(self.path(folder)) if self.path(folder).exists() else None
        except DamagedFileError:
            return None


def cells_of(suite: Suite) -> list[Cell]:
    """Every cell, controls before the pipelines that are compared with them; a control's cell serves several."""
    cells: dict[str, Cell] = {}
    for task in suite.tasks:
        for seed in suite.seeds:
            for pipeline in suite.pipelines:
                for cell in _cells(suite, task, seed, pipeline):
                    cells.setdefault(cell.name, cell)
    return list(cells.values())


def _cells(suite: Suite, task: Mapping[str, Any], seed: int, pipeline: str) -> list[Cell]:
    config = resolved(pipeline_config(suite, pipeline, task, seed))
    label = task_name(config["task"])
    group = label.removesuffix(f"-{seed}")
    deciding = {key: value for key, value in config.items() if key not in ("tracking", "trainer")}
    controls = None
    if suite.controls:
        rows = {key: config[key] for key in ("task", "seed", "calibration", "scoring")} | {"offline": suite.offline}
        controls = Cell(_name(label, CONTROLS, rows), group, seed, None, config, suite.offline)
    own = Cell(
        _name(label, pipeline, deciding), group, seed, pipeline, config, controls=controls.name if controls else None
    )
    return [controls, own] if controls else [own]


def _name(label: str, what: str, deciding: Mapping[str, Any]) -> str:
    key = json.dumps([FORMAT, __version__, what == CONTROLS, deciding], sort_keys=True)
    return f"{label}.{what}.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
