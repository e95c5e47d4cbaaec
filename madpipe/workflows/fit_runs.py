"""What `fit` leaves in MLflow: a decomposition run and a detector run, flat, linked, and a registered model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from madpipe.data.splits import Split
from madpipe.pipeline.folder import pipeline_digest
from madpipe.pipeline.source import Source
from madpipe.pipeline.workspace import Workspace
from madpipe.tracking.model_registry import register
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import Run, Store


@dataclass(frozen=True)
class FitRecord:
    """Where one fit is logged; nowhere, when tracking is disabled (`store` is None)."""

    store: Store | None
    name: str
    settings: Mapping[str, Any]
    source: Source
    splits: Sequence[Split]
    workspace: Workspace

    @contextmanager
    def decomposition_run(self) -> Iterator[Run | None]:
        """Open while the decomposition trains; a resumed fit continues its own run."""
        if self.store is None:
            yield None
            return
        earlier = self.workspace.notes.get("decomposition_run_id")
        resume = earlier if earlier and self.store.has_run(earlier) else None
        with self.store.run(f"{self.name} decomposition", "decomposition", resume=resume) as run:
            self.workspace.note(decomposition_run_id=run.id)
            if resume is None:
                run.params(self._shared_params())
                run.text(self._config_text(), "config/resolved.yaml")
                run.dataset(self.source.trusted[self.splits[0].fit], self.source.name, "fit")
            yield run

    def log_decomposition(self, run: Run | None, quality: Mapping[str, float]) -> str | None:
        """Quality figures, and the components as a logged model: its id."""
        if run is None:
            return None
        run.metrics({f"quality/{name}": value for name, value in quality.items()})
        run.note(_quality_note(quality))
        return run.model("decomposition", self._shared_params())

    def log_detectors(
        self, pipeline: Path, decomposition: tuple[str, str], figures: Mapping[str, float]
    ) -> tuple[str, str]:
        """The detector run with the pipeline in it: (run id, model URI). `decomposition` is (run id, model id)."""
        assert self.store is not None
        run_id, model_id = decomposition
        tags = {"decomposition_run_id": run_id, "pipeline_digest": pipeline_digest(pipeline)}
        with self.store.run(self.name, "detector", tags) as run:
            run.params(self._shared_params() | self._detector_params())
            run.metrics({f"calibration/{name}": value for name, value in figures.items()})
            run.text(self._config_text(), "config/resolved.yaml")
            run.artifact(pipeline / "splits.npz", "splits")
            run.model_inputs([model_id])
            for part in ("fit", "validation", "calibration"):
                run.dataset(self.source.trusted[getattr(self.splits[0], part)], self.source.name, part)
            run.note(f"Scores new inputs: `madpipe score --pipeline {pipeline.name} new.npz`")
            model_uri = log_pipeline(run, pipeline, self._example())
            if self.settings["tracking"]["register"]:
                model_uri = register(run, model_uri, self.settings["tracking"]["experiment"]).uri
            return run.id, model_uri

    def _shared_params(self) -> dict[str, Any]:
        decomposition = self.settings["decomposition"]
        return {
            "data.name": self.source.name,
            "decomposition.method": decomposition["method"],
            "decomposition.C": decomposition.get("components") or "auto",
            "decomposition.steps": decomposition["steps"],
            "seed": self.settings["seed"],
        }

    def _detector_params(self) -> dict[str, Any]:
        members = self.settings["detectors"]["members"]
        return {
            "detector.name": self.settings["detectors"]["combiner"]["detector"],
            "detector.members": ", ".join(members)[:400],
        }

    def _config_text(self) -> str:
        return yaml.safe_dump(dict(self.settings), sort_keys=False)

    def _example(self) -> np.ndarray:
        """Two inputs to store with the model: noise with the trusted mean and spread, or trusted rows where allowed."""
        trusted = self.source.trusted[self.splits[0].fit]
        if self.settings["tracking"]["log_example"] == "trusted":
            return trusted[:2]
        noise = np.random.default_rng(0).standard_normal((2, *trusted.shape[1:]))
        return (float(trusted.mean()) + float(trusted.std()) * noise).astype(np.float32)


def _quality_note(quality: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.4g} |" for name, value in quality.items()]
    return "\n".join(["| quality on held-back trusted rows | |", "|---|---|", *rows])
