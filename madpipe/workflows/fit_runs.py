"""What `fit` leaves in MLflow: a decomposition run and a detector run, flat, linked, and a registered model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.decomposition.statistics import takes_token_ids
from madpipe.pipeline.folder import folder_digest
from madpipe.reporting.calibration_figure import calibration_figure
from madpipe.reporting.figures import save_figure
from madpipe.tracking.operations import is_local
from madpipe.tracking.sending import pipeline_operation
from madpipe.workflows.decomposition_runs import DecompositionLink, DecompositionRecord, markdown_table


@dataclass(frozen=True)
class FitRecord(DecompositionRecord):
    """Where one fit is logged: its decomposition, unless that was taken from elsewhere, and its detectors."""

    def log_detectors(
        self, pipeline: Path, decomposition: DecompositionLink, calibration: NDArray[np.float64]
    ) -> tuple[str, str | None]:
        """The detector run with the pipeline in it: (run id, model URI, None where it waits to be sent).

        calibration: the anomaly scores of the calibration rows, [n], higher = worse.
        """
        assert self.store is not None
        tags = decomposition.tags | {"pipeline_digest": folder_digest(pipeline), "pipeline_folder": str(pipeline)}
        with self.store.run(self.name, "detector", tags, key=f"{self.workspace.token}-detector") as run:
            run.params(self.shared_params() | self._detector_params())
            figures = _figures(calibration)
            run.metrics({f"calibration/{name}": value for name, value in figures.items()})
            run.text(self.config_text(), "config/resolved.yaml")
            run.artifact(pipeline / "splits.npz", "splits")
            if decomposition.model_ids:
                run.model_inputs(decomposition.model_ids)
            for part in ("fit", "validation", "calibration"):
                run.dataset(self.source.trusted[getattr(self.splits[0], part)], self.source.name, part)
            with TemporaryDirectory() as scratch:
                save_figure(calibration_figure(calibration), Path(scratch) / "calibration.png")
                run.artifact(Path(scratch) / "calibration.png")  # MLflow compares files of the topmost folder alone
            run.note(self._note(pipeline, decomposition, figures))
            name = self.settings["tracking"]["experiment"] if self.settings["tracking"]["register"] else None
            packed = pipeline_operation(run.id, pipeline, self._example(), name)
            return run.id, self.store.write(packed, again=run.again)

    def _note(self, pipeline: Path, decomposition: DecompositionLink, figures: Mapping[str, float]) -> str:
        """What the run's page shows first: how to use it, what it was calibrated to, where its decomposition is."""
        rows = int(figures["rows"])
        least = f"p-values of {1 / (rows + 1):.2g} and more, from {rows:,} calibration rows of {self.source.name}"
        scores = ["of trusted rows", figures["anomaly_score_median"], figures["anomaly_score_max"]]
        members = ", ".join(self.settings["detectors"]["members"])
        return (
            f"Scores new inputs: `madpipe score --pipeline {pipeline.name} new.npz`\n\n"
            f"Gives {least}. Decomposition: {self._made_from(decomposition)}.\n\n"
            f"{markdown_table(['anomaly score', 'median', 'highest'], [scores])}\n\nDetectors: {members}."
        )

    def _made_from(self, decomposition: DecompositionLink) -> str:
        """The method, with a link to its run where the store has one."""
        run_id, method = decomposition.run_id, str(self.decomposition["method"])
        if self.store is None or run_id is None or is_local(run_id):
            return method
        return f"[{method}](#/experiments/{self.store.experiment_id}/runs/{run_id})"

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


def _figures(calibration: NDArray[np.float64]) -> dict[str, float]:
    return {
        "rows": float(len(calibration)),
        "anomaly_score_median": float(np.median(calibration)),
        "anomaly_score_max": float(calibration.max()),
    }
