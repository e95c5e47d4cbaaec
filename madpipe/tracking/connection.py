"""First contact with an MLflow store, and the border where every foreign error becomes a one-line TrackingError.

What cannot work is found in seconds, by looking before MLflow is asked: left to itself MLflow retries a dead server for
minutes, makes the folders of a mistyped path, and puts the password of the address into its message.
"""

import fcntl
import logging
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from madpipe.errors import MadpipeError, TrackingError, UnreachableError
from madpipe.tracking.addresses import (
    DATABASE_PORTS,
    artifact_root,
    dialect_of,
    host_and_port,
    redact,
    scrub,
    sqlite_path,
)

PROBE_SECONDS = 4  # a server answers an empty request in milliseconds; a person waits five seconds
_PATIENT_SECONDS = 10  # a loaded server may need them for a thousand metrics
_REFUSALS = (  # MLflow's codes for what it would refuse the next time too
    *("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_EXHAUSTED"),
    *("BAD_REQUEST", "INVALID_STATE", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED"),
)
_ANOTHER_STORE = "or another --tracking-uri (without one, an sqlite file in the current directory is used)"
_HTTP_REASONS = {
    "Connection refused": "nothing listens there",
    "NameResolutionError": "no such host",
    "timed out": "no answer within seconds",
    "error code 401": "it refuses the credentials; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "error code 403": "it refuses the credentials (set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD) or the "
    "name it was called by (start it with --allowed-hosts)",
    "error code 404": "something answers there, but not MLflow",
    "JSON": "something answers there, but not MLflow",
    "certificate": "its certificate is not trusted",
}


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri` (from `store_uri`), which has answered; TrackingError within about 5 s."""
    dialect = dialect_of(uri)
    if dialect == "sqlite":
        _look_at_sqlite(uri)
    if dialect in DATABASE_PORTS:
        _look_at_server(uri)
    with border(uri, "cannot open"), quiet(), impatient(), _one_at_a_time(uri):
        try:
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
        except ModuleNotFoundError as missing:
            raise TrackingError(f"the store {redact(uri)} needs the package '{missing.name}'. Install it.") from None
        except Exception as error:
            if dialect not in ("http", "https"):
                raise
            raise UnreachableError(
                f"cannot reach the MLflow server {redact(uri)}: {_reason(error, uri)}. "
                f"Start it (mlflow server), give its right address, {_ANOTHER_STORE}."
            ) from None
    return client


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The id of experiment `name`, made with an absolute artifact location where the store is local."""
    with border(uri, "cannot open"), quiet(), impatient():
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, artifact_location=artifact_root(uri))
            except Exception:  # another process has made it between the two calls, or else nobody has
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"the experiment '{name}' was deleted in {redact(uri)}. Choose another tracking.experiment, or restore it: "
            f"mlflow experiments restore --experiment-id {found.experiment_id}."
        )
    return str(found.experiment_id)


@contextmanager
def border(uri: str, doing: str) -> Iterator[None]:
    """Turns whatever MLflow and its storage libraries raise inside into one TrackingError line without secrets.

    It is an UnreachableError unless MLflow refused what was asked, or the fault is in a program.
    The original error is not chained: its text and its frames hold the address as it was given.
    """
    try:
        yield
    except (MadpipeError, AssertionError):
        raise
    except Exception as error:
        if _is_refusal(error):
            raise TrackingError(f"{doing} {redact(uri)}: {one_line(error, uri)}") from None
        raise UnreachableError(f"{doing} {redact(uri)}: {_reason(error, uri)}") from None


def _reason(error: Exception, uri: str) -> str:
    """Why a store does not answer, in plain words where they are known."""
    known = _HTTP_REASONS if dialect_of(uri) in ("http", "https") else {}
    return next((said for sign, said in known.items() if sign in str(error)), one_line(error, uri))


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return isinstance(error, (TypeError, LookupError, AttributeError, NameError, ImportError))


def one_line(error: Exception, uri: str) -> str:
    """The first line of an error's text, at most 300 characters, without the secrets of `uri`."""
    lines = scrub(str(error), uri).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


@contextmanager
def quiet() -> Iterator[None]:
    """No migration lines, advice or warnings from MLflow; MLFLOW_LOGGING_LEVEL, where it is set, is respected."""
    names = () if os.environ.get("MLFLOW_LOGGING_LEVEL") else ("mlflow", "alembic")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if loggers:
                warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """The environment with `values`, exactly as it was afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def impatient() -> AbstractContextManager[None]:
    """MLflow gives an http server one chance of PROBE_SECONDS inside, instead of minutes of retries."""
    return environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_SECONDS)})


def bounded() -> AbstractContextManager[None]:
    """MLflow gives an http server two chances of `_PATIENT_SECONDS` inside: enough for a short stutter."""
    return environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_PATIENT_SECONDS)})


def bounded_upload() -> AbstractContextManager[None]:
    """No second chance, and MLflow's own 120 s for the answer to a large file: a dead server is noticed at once."""
    return environment({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "120"})


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Processes that open stores in one folder take turns: two that make MLflow's tables at once break them.

    The folder itself is locked, so no file is left behind; a file system that has no locks does without.
    """
    if dialect_of(uri) != "sqlite":
        yield
        return
    folder = None
    with suppress(OSError):
        folder = os.open(sqlite_path(uri).parent, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def _look_at_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if not path.parent.is_dir():
        raise TrackingError(
            f"cannot open {redact(uri)}: the folder {path.parent} is not there. Make it, {_ANOTHER_STORE}."
        )
    if path.is_dir():
        raise TrackingError(f"cannot open {redact(uri)}: it is a folder. Name a file in it, {_ANOTHER_STORE}.")
    reason = _why_not_writable(path)
    if reason:
        raise TrackingError(
            f"cannot write to {redact(uri)}: {reason}. Correct the path or its rights, {_ANOTHER_STORE}."
        )


def _why_not_writable(path: Path) -> str:
    """What keeps sqlite from writing to `path` and, for its journal, beside it; "" when nothing does."""
    for needed in (path.parent, path) if path.exists() else (path.parent,):
        # sqlite itself would begin, and fail later: on a read-only file it takes BEGIN IMMEDIATE for reading.
        if not os.access(needed, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return f"no right to write {needed}"
    try:
        with closing(sqlite3.connect(path, timeout=PROBE_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(error)
    return ""


def _look_at_server(uri: str) -> None:
    address = host_and_port(uri)
    if address is None:
        return
    try:
        socket.create_connection(address, timeout=PROBE_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnreachableError(
            f"cannot reach the database {redact(uri)} ({reason}). Start it, give its right address, {_ANOTHER_STORE}."
        ) from None
