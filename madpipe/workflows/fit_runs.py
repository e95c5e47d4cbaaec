"""What `fit` leaves in MLflow: a decomposition run and a detector run, flat, linked, and a registered model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.decomposition.statistics import takes_token_ids
from madpipe.pipeline.folder import folder_digest
from madpipe.tracking.model_registry import register
from madpipe.tracking.packaging import log_pipeline
from madpipe.workflows.decomposition_runs import DecompositionLink, DecompositionRecord


@dataclass(frozen=True)
class FitRecord(DecompositionRecord):
    """Where one fit is logged: its decomposition, unless that was taken from elsewhere, and its detectors."""

    def log_detectors(
        self, pipeline: Path, decomposition: DecompositionLink, figures: Mapping[str, float]
    ) -> tuple[str, str]:
        """The detector run with the pipeline in it: (run id, model URI)."""
        assert self.store is not None
        tags = decomposition.tags | {"pipeline_digest": folder_digest(pipeline)}
        with self.store.run(self.name, "detector", tags) as run:
            run.params(self.shared_params() | self._detector_params())
            run.metrics({f"calibration/{name}": value for name, value in figures.items()})
            run.text(self.config_text(), "config/resolved.yaml")
            run.artifact(pipeline / "splits.npz", "splits")
            if decomposition.model_ids:
                run.model_inputs(decomposition.model_ids)
            for part in ("fit", "validation", "calibration"):
                run.dataset(self.source.trusted[getattr(self.splits[0], part)], self.source.name, part)
            run.note(f"Scores new inputs: `madpipe score --pipeline {pipeline.name} new.npz`")
            model_uri = log_pipeline(run, pipeline, self._example())
            if self.settings["tracking"]["register"]:
                model_uri = register(run, model_uri, self.settings["tracking"]["experiment"]).uri
            return run.id, model_uri

    def _detector_params(self) -> dict[str, Any]:
        members = self.settings["detectors"]["members"]
        return {
            "detector.name": self.settings["detectors"]["combiner"]["detector"],
            "detector.members": ", ".join(members)[:400],
        }

    def _example(self) -> np.ndarray:
        """Two inputs to store with the model: noise with the trusted mean and spread, or trusted rows where allowed.

        Noise in the place of token ids is rounded to ids among the trusted ones.
        """
        trusted = self.source.trusted[self.splits[0].fit]
        if self.settings["tracking"]["log_example"] == "trusted":
            return trusted[:2]
        noise = np.random.default_rng(0).standard_normal((2, *trusted.shape[1:]))
        example = (float(trusted.mean()) + float(trusted.std()) * noise).astype(np.float32)
        if takes_token_ids(self.source.target.module):
            return example.round().clip(trusted.min(), trusted.max())
        return example
