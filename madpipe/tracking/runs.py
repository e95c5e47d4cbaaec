"""Runs in an MLflow store: params, metrics, data and lineage, owned by madpipe from start to end.

Runs that people compare are flat, and linked by tags and model inputs; only the cells of a benchmark are nested, under
the run of their suite. Nothing logs itself.
"""

import getpass
import math
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from mlflow import MlflowClient

from madpipe import __version__
from madpipe.errors import ConfigError, OutOfTimeError, TrackingError
from madpipe.tracking.addresses import dialect_of, redact, scrub, store_uri
from madpipe.tracking.connection import border, connect, experiment_id, impatient, quiet
from madpipe.tracking.datasets import dataset_input
from madpipe.tracking.interruption import sigterm_raises
from madpipe.tracking.operations import RUN_KEY, Operation, Performer, dataset_operation, is_local
from madpipe.tracking.spool import Spool

if TYPE_CHECKING:
    from madpipe.tracking.lightning_logger import RunLogger

Kind = Literal["decomposition", "detector", "score", "evaluation", "benchmark", "benchmark cell"]
Scalar = str | int | float | bool | None
_STARTED_AT = time.time() - time.monotonic()  # when the monotonic clock began, by the clock on the wall

_PARAM_CHARACTERS = 500  # a param is read in a table's cell; MLflow itself cuts silently at 6000
_TAG_CHARACTERS = 8000  # MLflow's limit for a tag, the note included
_METRICS_A_REQUEST, _PARAMS_A_REQUEST = 1000, 100  # MLflow's limits for log_batch


def open_store(tracking_uri: str | None, experiment: str) -> "Store":
    """The MLflow store, reached and ready, with its experiment (made when missing).

    Address: `tracking_uri`, else MLFLOW_TRACKING_URI, else an sqlite file in the current directory. The first contact
    with a new sqlite file makes its tables, which takes some seconds. TrackingError within about 5 s when it cannot be
    reached; ConfigError for an experiment that cannot also name a registered model.
    """
    _refuse_unnameable(experiment)
    uri = store_uri(tracking_uri)
    client = connect(uri)
    return Store(uri, client, experiment, experiment_id(client, uri, experiment))


def absent_store(tracking_uri: str | None, experiment: str) -> "Store":
    """A store that need not answer now: an http server. TrackingError for others, which are opened at once."""
    _refuse_unnameable(experiment)
    uri = store_uri(tracking_uri)
    if dialect_of(uri) not in ("http", "https"):
        raise TrackingError(f"{redact(uri)} is no http server, and what is no server has to be there from the start.")
    with quiet():
        return Store(uri, MlflowClient(tracking_uri=uri), experiment, "")


def _refuse_unnameable(experiment: str) -> None:
    if not experiment.strip() or set("/:@") & set(experiment):
        raise ConfigError(
            f"tracking.experiment '{experiment}' cannot be a name: it is also the registered model's, "
            "and must be neither empty nor hold '/', ':' or '@'."
        )


@dataclass(frozen=True)
class Store:
    """One experiment in one MLflow store. `uri` may hold credentials: show `address`.

    spool: where writes go that the store cannot take now; without one they are a TrackingError.
    """

    uri: str = field(repr=False)
    client: MlflowClient = field(repr=False)
    experiment: str
    experiment_id: str
    spool: Spool | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return redact(self.uri)

    @contextmanager
    def run(
        self,
        name: str,
        kind: Kind,
        tags: Mapping[str, str] | None = None,
        *,
        resume: str | None = None,
        key: str | None = None,
    ) -> Iterator["Run"]:
        """A run that is FINISHED at the end of the block, FAILED after an exception, KILLED after Ctrl-C, SIGTERM
        or where a time limit is over.

        Tags without a dot get the prefix `madpipe.`: "decomposition_run_id" becomes madpipe.decomposition_run_id.
        `resume` continues the run with that id; what it has written already is not written twice. `key`: the caller's
        own name for a run that an earlier attempt may have started without learning its id (with a spool alone).
        """
        tags = {**_origin(kind), **(tags or {})}
        run = Run(self, resume or self._new_run(name, tags, key), again=resume is not None or key is not None)
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
        if self.spool and is_local(run_id):
            return self.spool.holds_run(run_id)
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

    def write(self, operation: Operation, *, again: bool = False) -> str | None:
        """Perform an operation, or keep it where there is a spool and the store is away.

        `again`: it may have been performed before, wholly or in part.
        """
        if self.spool:
            return self.spool.write(operation, again=again)
        with border(self.uri, "cannot start a run in" if operation["do"] == "start" else "cannot write to"), quiet():
            return Performer(self).perform(operation, again)

    def real_id(self, run_id: str) -> str | None:
        """The id that the store has given a run; None while the run waits to be sent."""
        if not self.spool or not is_local(run_id):
            return run_id
        with suppress(TrackingError), border(self.uri, "cannot look into"), quiet(), impatient():
            return None if self.spool.waiting else self.spool.performer.run_id(run_id)
        return None

    def settle(self) -> Path | None:
        """The folder in which writes are kept that this store did not take, after a last try; None where it has all."""
        return self.spool.settle() if self.spool else None

    def _new_run(self, name: str, tags: Mapping[str, str], known: str | None = None) -> str:
        key = known or uuid.uuid4().hex
        tags = {**_clean_tags(tags), **({RUN_KEY: key} if self.spool else {})}
        started = {"do": "start", "key": key, "name": name, "tags": tags, "time": _now()}
        made = self.write(started, again=known is not None)
        assert made is not None
        return made

    def _status(self, run_id: str, status: str) -> None:
        self.write({"do": "status", "run": run_id, "status": status, "time": _now()})

    def _close(self, run_id: str, status: str) -> None:
        """One short try: a store that died must neither hide the error that ended the run nor delay the way out."""
        with suppress(TrackingError), impatient():
            self._status(run_id, status)


@dataclass(frozen=True)
class Run:
    """One run. Addresses in what is written through `params`, `tags`, `note` and `text` lose their credentials.

    again: an earlier attempt may have written some of it.
    """

    store: Store
    id: str
    again: bool = False

    @property
    def address(self) -> str:
        """What to open or to type to look at the run: a page of the server, or the command that starts the pages."""
        if dialect_of(self.store.uri) in ("http", "https"):
            return f"{self.store.address.rstrip('/')}/#/experiments/{self.store.experiment_id}/runs/{self.id}"
        return f"mlflow ui --backend-store-uri {self.store.address}"

    def params(self, values: Mapping[str, Scalar]) -> None:
        """A small flat set: `{"decomposition.method": "spd", "seed": 0}`. Params cannot be changed later."""
        rows = [(_key(name), _clean(value)) for name, value in values.items()]
        for name, value in rows:
            assert len(value) <= _PARAM_CHARACTERS, f"param {name} has {len(value)} characters; log it with text()"
        for start in range(0, len(rows), _PARAMS_A_REQUEST):
            self._write({"do": "params", "values": dict(rows[start : start + _PARAMS_A_REQUEST])})

    def metrics(
        self, values: Mapping[str, float], step: int | None = None, *, model_id: str | None = None
    ) -> list[str]:
        """Logs the finite ones, grouped by slashes ("eval/auroc"); returns the names of the NaN and infinite ones."""
        return self.history([(step or 0, values)], model_id=model_id)

    def history(self, rows: Iterable[tuple[int, Mapping[str, float]]], *, model_id: str | None = None) -> list[str]:
        """Metrics of many steps, [(step, {name: value})], in one request per thousand; returns the names left out."""
        now = _now()
        finite: list[tuple[str, float, int, int]] = []
        left_out: dict[str, None] = {}
        for step, values in rows:
            for name, value in values.items():
                if math.isfinite(value):
                    finite.append((_key(name), float(value), now, step))
                else:
                    left_out[name] = None
        for start in range(0, len(finite), _METRICS_A_REQUEST):
            points = finite[start : start + _METRICS_A_REQUEST]
            self._write({"do": "metrics", "points": points, "model_id": model_id})
        return list(left_out)

    def tags(self, values: Mapping[str, str]) -> None:
        self._write({"do": "tags", "values": _clean_tags(values)})

    def note(self, markdown: str) -> None:
        """The description that MLflow shows at the top of the run's page."""
        self.tags({"mlflow.note.content": markdown})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file, or a folder with all that is in it, under `folder` of the run's artifacts."""
        assert path.exists(), f"no artifact at {path}"
        self._write({"do": "artifact", "path": str(path), "folder": folder})

    def text(self, content: str, artifact_file: str) -> None:
        """Writes `content` as the artifact `artifact_file`, for example "config/resolved.yaml"."""
        self._write({"do": "text", "content": scrub(content), "file": artifact_file})

    def dataset(self, x: np.ndarray, name: str, context: str) -> str:
        """Records that the run used `x` [n, ...] as `context`; returns the digest. The rows are not stored."""
        record = dataset_input(x, name, context)
        self._write(dataset_operation(record))
        return str(record.dataset.digest)

    def model(self, name: str, params: Mapping[str, Scalar] | None = None, folder: Path | None = None) -> str:
        """Records a model that this run made (with the files of `folder`); returns its id, for other runs' lineage."""
        values = {_key(key): _clean(value) for key, value in (params or {}).items()}
        made = self._write({"do": "model", "name": name, "values": values, "path": str(folder) if folder else None})
        assert made is not None
        return made

    def model_inputs(self, model_ids: Sequence[str]) -> None:
        """Records that the run starts from these models: the lineage that MLflow draws."""
        self._write({"do": "model_inputs", "models": list(model_ids)})

    def lightning_logger(self, prefix: str = "train/") -> "RunLogger":
        """A Lightning logger that writes into this run and leaves its status alone."""
        from madpipe.tracking.lightning_logger import RunLogger  # five seconds of Lightning, only for those who train

        return RunLogger(self.history, self.store.experiment, self.id, prefix)

    def _write(self, operation: Operation) -> str | None:
        return self.store.write({"run": self.id, **operation}, again=self.again)


def _now() -> int:
    """ms since 1970, as MLflow counts; in one process it never goes back, also where somebody sets the clock."""
    return int((_STARTED_AT + time.monotonic()) * 1000)


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
