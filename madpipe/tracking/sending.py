"""Stores that keep what they cannot send, and the operation that needs a whole pipeline: store and register it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from madpipe.errors import DamagedFileError, UnreachableError
from madpipe.tracking.connection import experiment_id
from madpipe.tracking.model_registry import MODEL_NAME, register, registered_before
from madpipe.tracking.operations import Operation, Performer, Place, Special, model_of
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import Run, Store, absent_store, open_store
from madpipe.tracking.spool import Spool, send, unsent_folder, where_kept


def pipeline_operation(run_id: str, folder: Path, example: np.ndarray, name: str | None) -> Operation:
    """Store the pipeline in `folder` with an input example [B, *input_shape]; register it as `name` unless None."""
    rows = {"example": example.ravel().tolist(), "shape": list(example.shape)}
    return {"do": "pipeline", "run": run_id, "path": str(folder), "register": name, **rows}


def _log_and_register(place: Place, run_id: str, operation: Operation, again: bool) -> str:
    """The address of the version, or of the model where nothing is to be registered.

    `again`: what an earlier try has finished is taken as it is, what it has left half-made is removed.
    """
    run = Run(Store(place.uri, place.client, operation["register"] or "", place.experiment_id), run_id)
    model_uri = _finished(place, run_id) if again else None
    if model_uri is None:
        try:
            example = np.asarray(operation["example"], np.float32).reshape(operation["shape"])
        except (TypeError, ValueError):
            raise DamagedFileError("the input example of a pipeline that was kept is no array.") from None
        model_uri = log_pipeline(run, Path(operation["path"]), example)
    if operation["register"] is None:
        return model_uri
    made = registered_before(run, model_uri, operation["register"]) if again else None
    return (made or register(run, model_uri, operation["register"])).uri


def _finished(place: Place, run_id: str) -> str | None:
    while (made := model_of(place, run_id, MODEL_NAME)) is not None:
        if str(made.status) == "READY":
            return f"models:/{made.model_id}"
        place.client.delete_logged_model(made.model_id)
    return None


SPECIALS: dict[str, Special] = {"pipeline": _log_and_register}


def spooling_store(
    tracking_uri: str | None, experiment: str, output: Path, report: Callable[[str], None], *, absent: bool
) -> Store:
    """`open_store`, with what it cannot take in the middle of the work kept in `<output>.unsent`.

    absent: an http server need not answer now either; UnreachableError otherwise.
    """
    place: Place
    try:
        store = place = open_store(tracking_uri, experiment)
    except UnreachableError as failure:
        if not absent:
            raise UnreachableError(
                f"{failure} Or give --spool: what is logged is then kept, to be sent later."
            ) from None
        store = absent_store(tracking_uri, experiment)
        place = _PlaceToCome(store.uri, store.client, experiment)
    return replace(store, spool=Spool(unsent_folder(output), Performer(place, SPECIALS), experiment, report))


def send_kept(folder: Path, tracking_uri: str) -> int:
    """Send what `folder` keeps to the store at `tracking_uri`; the number of operations. Errors as of `spool.send`."""
    return send(folder, Performer(open_store(tracking_uri, where_kept(folder)[1]), SPECIALS))


@dataclass(frozen=True)
class _PlaceToCome:
    """A server that may not answer yet: its experiment is looked for when it is first needed."""

    uri: str
    client: MlflowClient
    experiment: str

    @cached_property
    def experiment_id(self) -> str:
        return experiment_id(self.client, self.uri, self.experiment)
