"""What a benchmark leaves in MLflow: a run for the suite, under it one for each cell, written when the cell arrives.

Files come first: a store that dies costs no result, and the same command logs later what is missing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import load_json, save_json
from madpipe.config.suite import Suite
from madpipe.errors import DamagedFileError, TrackingError
from madpipe.tracking.connection import impatient
from madpipe.tracking.runs import Run, Store
from madpipe.workflows.benchmark_plan import Cell
from madpipe.workflows.decomposition_runs import decomposition_params

NOTES = "tracking.json"
LOGGED = (
    "auroc",
    "average_precision",
    "tpr_at_1",
    "tpr_at_5",
    "fpr_at_nominal_1",
    "fpr_at_nominal_5",
    "recall_at_nominal_1",
)


@dataclass
class SuiteRecord:
    """The suite's run, or none (`run` None). `failure`: why logging was given up; then it is not tried again."""

    folder: Path
    run: Run | None
    notes: dict[str, Any]
    failure: TrackingError | None = None
    left: list[tuple[Cell, Mapping[str, Any]]] = field(default_factory=list)

    def log(self, cell: Cell, document: Mapping[str, Any]) -> None:
        """A run for the cell, unless it has a whole one."""
        if self.run is None or cell.name in self.notes["logged"]:
            return
        if self.failure is not None:
            self.left.append((cell, document))
            return
        try:
            with impatient():
                self._log(self.run, cell, document)
        except TrackingError as error:
            self.failure = error
            self.left.append((cell, document))

    def finish(self, names: tuple[str, ...]) -> None:
        """What could not be logged is tried once more; then the named files of the folder become artifacts."""
        if self.run is None:
            return
        if self.failure is not None:
            with impatient():
                for cell, document in self.left:
                    self._log(self.run, cell, document)
        self.failure = None
        for name in names:
            self.run.artifact(self.folder / name)

    def _log(self, suite: Run, cell: Cell, document: Mapping[str, Any]) -> None:
        begun = self.notes["begun"].get(cell.name)
        resume = begun if begun and suite.store.has_run(begun) else None
        tags = {"mlflow.parentRunId": suite.id, "benchmark_cell": cell.name}
        name = f"{cell.task} {cell.pipeline or 'controls'} seed {cell.seed}"
        with suite.store.run(name, "benchmark cell", tags, resume=resume) as run:
            self.notes["begun"][cell.name] = run.id
            self._keep()
            run.params(cell_params(cell))
            run.metrics(cell_metrics(document))
        self.notes["logged"].append(cell.name)
        self._keep()

    def _keep(self) -> None:
        save_json(self.notes, self.folder / NOTES)


@contextmanager
def suite_run(suite: Suite, folder: Path, store: Store | None) -> Iterator[SuiteRecord]:
    """Open while cells arrive; a resumed suite continues its own run."""
    if store is None:
        yield SuiteRecord(folder, None, {})
        return
    notes = _notes(folder)
    resume = notes["run_id"] if notes and store.has_run(notes["run_id"]) else None
    with store.run(f"suite {suite.name}", "benchmark", resume=resume) as run:
        if resume is None:
            notes = {"run_id": run.id, "begun": {}, "logged": []}
            tasks = ", ".join(dict.fromkeys(task["name"] for task in suite.tasks))
            run.params({"suite": suite.name, "tasks": tasks[:400], "pipelines": ", ".join(suite.pipelines)[:400]})
        record = SuiteRecord(folder, run, notes)
        record._keep()
        yield record


def cell_params(cell: Cell) -> dict[str, Any]:
    """Those that every fit logs, first."""
    own = {"pipeline": cell.pipeline or "controls", "task": cell.task}
    shared = {"data.name": f"{cell.task}-{cell.seed}", "seed": cell.seed}
    return own | (decomposition_params(cell.config["decomposition"]) if cell.pipeline else {}) | shared


def cell_metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """Of the default score by their plain names, of others under members/NAME and controls/NAME; agree/ after these."""
    values = {f"cost/{name}": float(value) for name, value in document.get("cost", {}).items()}
    groups = {"": document["default"]} if "default" in document else {}
    for kind in ("members", "controls"):
        groups |= {f"{kind}/{name}/": metrics for name, metrics in document.get(kind, {}).items()}
    for prefix, metrics in groups.items():
        values |= {f"{prefix}{name}": float(metrics[name]) for name in LOGGED}
        if "agree" in metrics:
            values |= {f"{prefix}agree/{name}": float(metrics["agree"][name]) for name in LOGGED}
    return values


def _notes(folder: Path) -> dict[str, Any]:
    try:
        return load_json(folder / NOTES) if (folder / NOTES).exists() else {}
    except DamagedFileError:
        return {}
