"""Every pipeline that a store knows: its fit's run, what it was evaluated to, its registered versions."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from madpipe.errors import unknown
from madpipe.tracking.addresses import store_uri
from madpipe.tracking.connection import border, connect, quiet
from madpipe.tracking.runs import Store

_PAGE = 1000  # rows a request
_SHOWN_OF_EVALUATION = (
    *("auroc", "average_precision", "tpr_at_1", "tpr_at_5"),
    *("fpr_at_nominal_1", "fpr_at_nominal_5", "recall_at_nominal_1"),
)
Row = dict[str, Any]


def fitted_pipelines(
    tracking_uri: str | None, *, experiment: str | None = None, words: tuple[str, ...] = (), limit: int | None = None
) -> list[Row]:
    """Finished fits, newest first: what each row holds stands in `_row`.

    `words`: only rows in which each of them occurs, in the name, data, method, experiment, version or aliases, in
    either case. UnknownNameError for an experiment that is not there; TrackingError where no store is.
    """
    uri = store_uri(tracking_uri)
    client = connect(uri)
    with border(uri, "cannot list the runs of"), quiet():
        names = _experiments(client, experiment)
        versions = _versions(client)
        evaluations = _evaluations(client, list(names))
        rows = (_row(run, names, versions, evaluations) for run in _runs(client, list(names), "detector"))
        return list(islice((row for row in rows if all(_holds(row, word) for word in words)), limit))


def models_of_pipeline(store: Store, digest: str) -> list[str]:
    """Ids of the models that fits of the pipeline with this digest logged in this store's experiment."""
    with border(store.uri, "cannot look into"), quiet():
        runs = [
            run
            for run in _runs(store.client, [store.experiment_id], "detector")
            if run.data.tags.get("madpipe.pipeline_digest") == digest
        ]
    return [model for run in runs for model in store.models_of(run.info.run_id)]


def _experiments(client: MlflowClient, wanted: str | None) -> dict[str, str]:
    """id -> name of every experiment, or of the one that is wanted."""
    found = {made.experiment_id: made.name for made in client.search_experiments(max_results=_PAGE)}
    if wanted is None:
        return found
    if wanted not in found.values():
        raise unknown("experiment", wanted, found.values())
    return {number: name for number, name in found.items() if name == wanted}


def _runs(client: MlflowClient, experiment_ids: list[str], kind: str) -> Iterator[Run]:
    wanted = f"tags.`madpipe.kind` = '{kind}' and attributes.status = 'FINISHED'"
    token = None
    while experiment_ids:
        page = client.search_runs(
            experiment_ids, wanted, order_by=["attributes.start_time DESC"], max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _versions(client: MlflowClient) -> dict[str, list[str]]:
    """run id -> `["digits/3 @candidate @champion"]`, oldest version first."""
    aliases: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for model in client.search_registered_models(max_results=_PAGE):
        for alias, version in model.aliases.items():
            aliases[model.name, str(version)].append(f"@{alias}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    for made in sorted(client.search_model_versions(max_results=10 * _PAGE), key=lambda made: int(made.version)):
        words = [f"{made.name}/{made.version}", *sorted(aliases[made.name, str(made.version)])]
        found[made.run_id or ""].append(" ".join(words))
    return found


def _evaluations(client: MlflowClient, experiment_ids: list[str]) -> dict[str, Run]:
    """digest of a pipeline -> its newest evaluation."""
    found: dict[str, Run] = {}
    for run in _runs(client, experiment_ids, "evaluation"):
        found.setdefault(run.data.tags.get("madpipe.pipeline_digest", ""), run)
    return found


def _row(run: Run, experiments: dict[str, str], versions: dict[str, list[str]], evaluations: dict[str, Run]) -> Row:
    """One pipeline. `evaluation` holds the figures of its newest logged evaluation and the data they are of, or is
    None; `folder` is where `fit` wrote it, which may have been moved since.
    """
    tags, params = run.data.tags, run.data.params
    judged = evaluations.get(tags.get("madpipe.pipeline_digest", "-"))
    return {
        "date": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        "name": run.info.run_name,
        "run_id": run.info.run_id,
        "experiment": experiments[run.info.experiment_id],
        "data": params.get("data.name"),
        "method": params.get("decomposition.method"),
        "calibration_size": int(run.data.metrics.get("calibration/rows", 0)),
        "evaluation": _figures(judged) if judged else None,
        "versions": versions.get(run.info.run_id, []),
        "folder": tags.get("madpipe.pipeline_folder"),
    }


def _figures(evaluation: Run) -> dict[str, Any]:
    metrics = evaluation.data.metrics
    figures = {name: metrics[f"eval/{name}"] for name in _SHOWN_OF_EVALUATION if f"eval/{name}" in metrics}
    data = evaluation.inputs.dataset_inputs if evaluation.inputs else []
    facts = {"data": evaluation.data.params.get("data.name"), "digest": data[0].dataset.digest if data else None}
    return {**facts, "run_id": evaluation.info.run_id, **figures}


def _holds(row: Row, word: str) -> bool:
    texts = (row["name"], row["data"], row["method"], row["experiment"], *row["versions"])
    return any(word.lower() in text.lower() for text in texts if text)
