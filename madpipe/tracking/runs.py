"""Runs in an MLflow store: params, metrics, data and lineage, owned by madpipe from start to end.

Runs that people compare are flat, and linked by tags and model inputs; only the cells of a benchmark are nested, under
the run of their suite. Nothing logs itself.
"""

import getpass
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, LoggedModelOutput, Metric, Param, RunTag

from madpipe import __version__
from madpipe.errors import ConfigError, OutOfTimeError, TrackingError
from madpipe.tracking.addresses import dialect_of, redact, scrub, store_uri
from madpipe.tracking.connection import border, connect, experiment_id, impatient, quiet
from madpipe.tracking.datasets import dataset_input
from madpipe.tracking.interruption import sigterm_raises

if TYPE_CHECKING:
    from madpipe.tracking.lightning_logger import RunLogger

Kind = Literal["decomposition", "detector", "score", "evaluation", "benchmark", "benchmark cell"]
Scalar = str | int | float | bool | None

_PARAM_CHARACTERS = 500  # a param is read in a table's cell; MLflow itself cuts silently at 6000
_TAG_CHARACTERS = 8000  # MLflow's limit for a tag, the note included
_METRICS_A_REQUEST, _PARAMS_A_REQUEST = 1000, 100  # MLflow's limits for log_batch


def open_store(tracking_uri: str | None, experiment: str) -> "Store":
    """The MLflow store, reached and ready, with its experiment (made when missing).

    Address: `tracking_uri`, else MLFLOW_TRACKING_URI, else an sqlite file in the current directory. The first contact
    with a new sqlite file makes its tables, which takes some seconds. TrackingError within about 5 s when it cannot be
    reached; ConfigError for an experiment that cannot also name a registered model.
    """
    if not experiment.strip() or set("/:@") & set(experiment):
        raise ConfigError(
            f"tracking.experiment '{experiment}' cannot be a name: it is also the registered model's, "
            "and must be neither empty nor hold '/', ':' or '@'."
        )
    uri = store_uri(tracking_uri)
    client = connect(uri)
    return Store(uri, client, experiment, experiment_id(client, uri, experiment))


@dataclass(frozen=True)
class Store:
    """One experiment in one MLflow store. `uri` may hold credentials: show `address`."""

    uri: str = field(repr=False)
    client: MlflowClient = field(repr=False)
    experiment: str
    experiment_id: str

    @property
    def address(self) -> str:
        return redact(self.uri)

    @contextmanager
    def run(
        self, name: str, kind: Kind, tags: Mapping[str, str] | None = None, *, resume: str | None = None
    ) -> Iterator["Run"]:
        """A run that is FINISHED at the end of the block, FAILED after an exception, KILLED after Ctrl-C, SIGTERM
        or where a time limit is over.

        Tags without a dot get the prefix `madpipe.`: "decomposition_run_id" becomes madpipe.decomposition_run_id.
        `resume` continues the run with that id.
        """
        tags = {**_origin(kind), **(tags or {})}
        run = Run(self, resume or self._new_run(name, tags))
        with sigterm_raises():
            try:
                if resume:
                    self._status(run.id, "RUNNING")
                    run.tags(tags)
                yield run
            except OutOfTimeError:
                self._close(run.id, "KILLED")
                raise
            except Exception:
                self._close(run.id, "FAILED")
                raise
            except BaseException:  # KeyboardInterrupt, SystemExit (SIGTERM), Lightning's SIGTERMException
                self._close(run.id, "KILLED")
                raise
        self._status(run.id, "FINISHED")

    def has_run(self, run_id: str) -> bool:
        """Whether `run_id` is an active run of this experiment, so that it can be resumed."""
        with suppress(TrackingError), border(self.uri, "cannot look into"), quiet():
            info = self.client.get_run(run_id).info
            return bool(info.experiment_id == self.experiment_id and info.lifecycle_stage == "active")
        return False

    def models_of(self, run_id: str) -> list[str]:
        """Ids of the models that a run made; none where this store has no such run."""
        with suppress(TrackingError), border(self.uri, "cannot look into"), quiet():
            outputs = self.client.get_run(run_id).outputs
            return [str(made.model_id) for made in outputs.model_outputs] if outputs else []
        return []

    def _new_run(self, name: str, tags: Mapping[str, str]) -> str:
        with border(self.uri, "cannot start a run in"), quiet():
            made = self.client.create_run(self.experiment_id, tags=_clean_tags(tags), run_name=name)
            return str(made.info.run_id)

    def _status(self, run_id: str, status: str) -> None:
        with border(self.uri, "cannot write to"), quiet():
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status)

    def _close(self, run_id: str, status: str) -> None:
        """One short try: a store that died must neither hide the error that ended the run nor delay the way out."""
        with suppress(TrackingError), impatient():
            self._status(run_id, status)


@dataclass(frozen=True)
class Run:
    """One run. Addresses in what is written through `params`, `tags`, `note` and `text` lose their credentials."""

    store: Store
    id: str

    @property
    def address(self) -> str:
        """What to open or to type to look at the run: a page of the server, or the command that starts the pages."""
        if dialect_of(self.store.uri) in ("http", "https"):
            return f"{self.store.address.rstrip('/')}/#/experiments/{self.store.experiment_id}/runs/{self.id}"
        return f"mlflow ui --backend-store-uri {self.store.address}"

    def params(self, values: Mapping[str, Scalar]) -> None:
        """A small flat set: `{"decomposition.method": "spd", "seed": 0}`. Params cannot be changed later."""
        rows = [Param(_key(name), _clean(value)) for name, value in values.items()]
        for row in rows:
            assert len(row.value) <= _PARAM_CHARACTERS, (
                f"param {row.key} has {len(row.value)} characters; log it with text()"
            )
        for start in range(0, len(rows), _PARAMS_A_REQUEST):
            with self._writing():
                self._client.log_batch(self.id, params=rows[start : start + _PARAMS_A_REQUEST], synchronous=True)

    def metrics(
        self, values: Mapping[str, float], step: int | None = None, *, model_id: str | None = None
    ) -> list[str]:
        """Logs the finite ones, grouped by slashes ("eval/auroc"); returns the names of the NaN and infinite ones."""
        return self.history([(step or 0, values)], model_id=model_id)

    def history(self, rows: Iterable[tuple[int, Mapping[str, float]]], *, model_id: str | None = None) -> list[str]:
        """Metrics of many steps, [(step, {name: value})], in one request per thousand; returns the names left out."""
        now = int(time.time() * 1000)
        finite: list[Metric] = []
        left_out: dict[str, None] = {}
        for step, values in rows:
            for name, value in values.items():
                if math.isfinite(value):
                    finite.append(Metric(_key(name), float(value), now, step, model_id=model_id))
                else:
                    left_out[name] = None
        for start in range(0, len(finite), _METRICS_A_REQUEST):
            with self._writing():
                self._client.log_batch(self.id, metrics=finite[start : start + _METRICS_A_REQUEST], synchronous=True)
        return list(left_out)

    def tags(self, values: Mapping[str, str]) -> None:
        rows = [RunTag(name, value) for name, value in _clean_tags(values).items()]
        with self._writing():
            self._client.log_batch(self.id, tags=rows, synchronous=True)

    def note(self, markdown: str) -> None:
        """The description that MLflow shows at the top of the run's page."""
        self.tags({"mlflow.note.content": markdown})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file, or a folder with all that is in it, under `folder` of the run's artifacts."""
        assert path.exists(), f"no artifact at {path}"
        with self._writing():
            self._client.log_artifact(self.id, str(path), folder)

    def text(self, content: str, artifact_file: str) -> None:
        """Writes `content` as the artifact `artifact_file`, for example "config/resolved.yaml"."""
        with self._writing():
            self._client.log_text(self.id, scrub(content), artifact_file)

    def dataset(self, x: np.ndarray, name: str, context: str) -> str:
        """Records that the run used `x` [n, ...] as `context`; returns the digest. The rows are not stored."""
        record = dataset_input(x, name, context)
        with self._writing():
            self._client.log_inputs(self.id, datasets=[record])
        return str(record.dataset.digest)

    def model(self, name: str, params: Mapping[str, Scalar] | None = None, folder: Path | None = None) -> str:
        """Records a model that this run made (with the files of `folder`); returns its id, for other runs' lineage."""
        values = {_key(key): _clean(value) for key, value in (params or {}).items()}
        with self._writing():
            made = self._client.create_logged_model(
                self.store.experiment_id, name, source_run_id=self.id, params=values
            )
            if folder is not None:
                self._client.log_model_artifacts(made.model_id, str(folder))
            self._client.finalize_logged_model(made.model_id, "READY")
            self._client.log_outputs(self.id, [LoggedModelOutput(made.model_id, step=0)])
        return str(made.model_id)

    def model_inputs(self, model_ids: Sequence[str]) -> None:
        """Records that the run starts from these models: the lineage that MLflow draws."""
        with self._writing():
            self._client.log_inputs(self.id, models=[LoggedModelInput(model_id) for model_id in model_ids])

    def lightning_logger(self, prefix: str = "train/") -> "RunLogger":
        """A Lightning logger that writes into this run and leaves its status alone."""
        from madpipe.tracking.lightning_logger import RunLogger  # five seconds of Lightning, only for those who train

        return RunLogger(self.history, self.store.experiment, self.id, prefix)

    @property
    def _client(self) -> MlflowClient:
        return self.store.client

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with border(self.store.uri, "cannot write to"), quiet():
            yield


def _clean(value: Scalar) -> str:
    assert not isinstance(value, dict | list | tuple | set), f"a flat value is wanted, not {type(value).__name__}"
    return scrub(str(value))


def _origin(kind: str) -> dict[str, str]:
    origin = {"mlflow.source.name": "madpipe", "mlflow.source.type": "LOCAL", "version": __version__, "kind": kind}
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        origin["mlflow.user"] = getpass.getuser()
    return origin


def _clean_tags(values: Mapping[str, str]) -> dict[str, str]:
    """Names without a dot get the prefix `madpipe.`; what is longer than MLflow takes is cut."""
    return {
        name if "." in name else f"madpipe.{name}": _clean(value)[:_TAG_CHARACTERS] for name, value in values.items()
    }


def _key(name: str) -> str:
    """`name` with what MLflow refuses in names of params and metrics replaced by an underscore."""
    return "/".join(part for part in re.sub(r"[^\w\-. :/]", "_", name).split("/") if part)
