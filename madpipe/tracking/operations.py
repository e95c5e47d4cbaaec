"""What a run writes, as plain values: performed at once, or kept in a file (see spool.py) and performed later.

An operation is a dict that JSON can hold, with its kind under `do` and its run under `run`. Times are those at which it
was written down, in ms. Performed `again`, an operation leaves what performing it once leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)

from madpipe.errors import TrackingError

Operation = Mapping[str, Any]
RUN_KEY = "madpipe.run_key"  # the tag by which a run is found whose id the server had no time to tell
_LOCAL = "unsent-"


class Place(Protocol):
    """One experiment in one MLflow store."""

    @property
    def uri(self) -> str: ...
    @property
    def client(self) -> MlflowClient: ...
    @property
    def experiment_id(self) -> str: ...


Special = Callable[[Place, str, Operation, bool], str | None]


def local_run(key: str) -> str:
    """What stands for the id of the run with this key until the store has given it one."""
    return f"{_LOCAL}{key}"


def local_model(run_id: str, name: str) -> str:
    """The same for the model called `name` of a run."""
    return f"{_LOCAL}{run_id}:{name}"


def is_local(identifier: str) -> bool:
    return identifier.startswith(_LOCAL)


@dataclass(frozen=True)
class Performer:
    """Performs operations in `place`. specials: kinds of operations that need rooms which this file may not see."""

    place: Place
    specials: Mapping[str, Special] = field(default_factory=dict)
    _runs: dict[str, str] = field(default_factory=dict, repr=False)

    def perform(self, operation: Operation, again: bool = False) -> str | None:
        """Returns the id or the address of what was made, if anything was."""
        if operation["do"] == "start":
            return self._start(operation, again)
        run = self.run_id(operation["run"])
        if operation["do"] in self.specials:
            return self.specials[operation["do"]](self.place, run, operation, again)
        if operation["do"] == "model":
            return self._model(run, operation, again)
        self._write(run, operation, again)
        return None

    def run_id(self, identifier: str) -> str:
        """The store's own id of a run. TrackingError where the store has no run with that key."""
        if not is_local(identifier):
            return identifier
        if identifier not in self._runs:
            found = self._started(identifier.removeprefix(_LOCAL))
            if found is None:
                raise TrackingError(f"no run with the key {identifier.removeprefix(_LOCAL)} is in this store.")
            self._runs[identifier] = found
        return self._runs[identifier]

    def _start(self, operation: Operation, again: bool) -> str:
        found = self._started(operation["key"]) if again else None
        if found is None:
            tags = {name: self._real(value) for name, value in operation["tags"].items()}
            made = self.place.client.create_run(
                self.place.experiment_id, start_time=operation["time"], tags=tags, run_name=operation["name"]
            )
            found = str(made.info.run_id)
        self._runs[local_run(operation["key"])] = found
        return found

    def _started(self, key: str) -> str | None:
        found = self.place.client.search_runs([self.place.experiment_id], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _real(self, value: str) -> str:
        return self.run_id(value) if is_local(value) else value

    def _write(self, run: str, operation: Operation, again: bool) -> None:
        client = self.place.client
        match operation["do"]:
            case "status":
                self._status(run, operation)
            case "params":
                rows = [Param(name, value) for name, value in operation["values"].items()]
                client.log_batch(run, params=rows, synchronous=True)
            case "metrics":
                points = [_metric(point, operation["model_id"]) for point in operation["points"]]
                client.log_batch(run, metrics=points, synchronous=True)
            case "tags":
                tags = [RunTag(name, self._real(value)) for name, value in operation["values"].items()]
                client.log_batch(run, tags=tags, synchronous=True)
            case "artifact":
                client.log_artifact(run, operation["path"], operation["folder"])
            case "text":
                client.log_text(run, operation["content"], operation["file"])
            case "dataset":
                client.log_inputs(run, datasets=[_dataset(operation)])
            case "model_inputs":
                self._model_inputs(run, operation["models"])
            case unknown:
                raise TrackingError(f"there is no operation '{unknown}'; a newer madpipe may have written it.")

    def _status(self, run: str, operation: Operation) -> None:
        if operation["status"] == "RUNNING":
            self.place.client.update_run(run, status="RUNNING")
        else:
            self.place.client.set_terminated(run, operation["status"], operation["time"])

    def _model(self, run: str, operation: Operation, again: bool) -> str:
        client = self.place.client
        made = model_of(self.place, run, operation["name"]) if again else None
        if made is None:
            made = client.create_logged_model(
                self.place.experiment_id, operation["name"], source_run_id=run, params=dict(operation["values"])
            )
        if str(made.status) != "READY":
            if operation["path"] is not None:
                client.log_model_artifacts(made.model_id, operation["path"])
            client.finalize_logged_model(made.model_id, "READY")
        record_output(self.place, run, made.model_id)
        return str(made.model_id)

    def _model_inputs(self, run: str, identifiers: list[str]) -> None:
        models = [self._model_id(identifier) for identifier in identifiers]
        self.place.client.log_inputs(run, models=[LoggedModelInput(model_id) for model_id in models])

    def _model_id(self, identifier: str) -> str:
        if not is_local(identifier):
            return identifier
        run, _, name = identifier.removeprefix(_LOCAL).rpartition(":")
        made = model_of(self.place, self._real(run), name)
        if made is None:
            raise TrackingError(f"the run {self._real(run)} has no model '{name}' in this store.")
        return str(made.model_id)


def model_of(place: Place, run_id: str, name: str) -> LoggedModel | None:
    """The model called `name` that a run made, a READY one where there are several; None where there is none."""
    found = place.client.search_logged_models(
        [place.experiment_id], filter_string=f"source_run_id = '{run_id}' AND name = '{name}'"
    )
    return min(found, key=lambda made: str(made.status) != "READY", default=None)


def record_output(place: Place, run_id: str, model_id: str) -> None:
    """The model as an output of the run; MLflow itself fails where it is one already."""
    outputs = place.client.get_run(run_id).outputs
    if model_id not in [made.model_id for made in (outputs.model_outputs if outputs else [])]:
        place.client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])


def dataset_operation(record: DatasetInput) -> dict[str, Any]:
    facts = record.dataset.to_dictionary()
    return {"do": "dataset", "facts": facts, "context": record.tags[0].value}


def _metric(point: tuple[str, float, int, int], model_id: str | None) -> Metric:
    name, value, at, step = point
    return Metric(name, value, at, step, model_id=model_id)


def _dataset(operation: Operation) -> DatasetInput:
    return DatasetInput(Dataset(**operation["facts"]), [InputTag("mlflow.data.context", operation["context"])])


def path_of(operation: Operation) -> Path | None:
    """The file or folder that the operation stores."""
    return Path(operation["path"]) if operation.get("path") else None
