"""What `evaluate --log` leaves in MLflow: a run of its own, linked to the pipeline by its digest and its model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.pipeline.folder import folder_digest
from madpipe.workflows.decomposition_runs import decomposition_params, markdown_table

SHOWN = ("auroc", "average_precision", "tpr_at_1", "tpr_at_5", "fpr_at_nominal_1")  # what the note tells


def log_evaluation(
    folder: Path,
    config: Mapping[str, Any],
    labelled: Path,
    x: NDArray[np.float32],
    result: Mapping[str, Any],
    draw: Callable[[Path], None],
    tracking_uri: str | None,
) -> None:
    """Metrics as `eval/auroc`, members' and controls' as `members/<name>/auroc`, in the pipeline's own experiment.

    draw: writes the figure to a path. It lies at evaluation.png in every run, where MLflow shows runs side by side.
    The pipeline's logged model shows the `eval/` ones too, where this store has it.
    """
    from madpipe.tracking.run_list import models_of_pipeline
    from madpipe.tracking.runs import open_store

    tracking = config["tracking"]
    store = open_store(tracking_uri or tracking["tracking_uri"], tracking["experiment"])
    digest = folder_digest(folder)
    models = models_of_pipeline(store, digest)
    with store.run(f"evaluate {labelled.name}", "evaluation", {"pipeline_digest": digest}) as run:
        run.params(
            _shared(config)
            | {"data.name": labelled.stem, "data.rows": result["rows"], "data.anomalous": result["anomalous"]}
        )
        run.dataset(x, labelled.stem, "evaluation")
        default = {f"eval/{name}": value for name, value in _numbers(result["default"]).items()}
        run.metrics(default)
        for model_id in models:
            run.metrics(default, model_id=model_id)
        run.model_inputs(models)
        for kind in ("members", "controls"):
            for name, metrics in result.get(kind, {}).items():
                run.metrics({f"{kind}/{name}/{metric}": value for metric, value in _numbers(metrics).items()})
        with TemporaryDirectory() as scratch:
            draw(Path(scratch) / "evaluation.png")
            run.artifact(Path(scratch) / "evaluation.png")
        run.note(_note(labelled, result))


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Params by which the fit of the pipeline is told from others; of one that was taken up, its seed alone."""
    decomposition = config["decomposition"]
    own = decomposition_params(decomposition) if "method" in decomposition else {}
    return own | {"seed": config["seed"]}


def _note(labelled: Path, result: Mapping[str, Any]) -> str:
    """The default score beside members and controls."""
    rows = {"default": result["default"]} | dict(result.get("members", {})) | dict(result.get("controls", {}))
    columns = [name for name in SHOWN if name in result["default"]]
    table = [[name, *(metrics.get(column, "") for column in columns)] for name, metrics in rows.items()]
    counts = f"{result['rows']:,} inputs of `{labelled.name}`, {result['anomalous']:,} anomalous."
    return f"{counts}\n\n{markdown_table(['score', *columns], table)}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
