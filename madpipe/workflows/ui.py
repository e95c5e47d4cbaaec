"""MLflow's own pages on the store that runs are written to."""

import os
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from madpipe.errors import MadpipeError
from madpipe.tracking.addresses import artifact_root, dialect_of, existing_store, redact, store_uri

QUIET_AND_SMALL = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes and 0.5 GB instead of 10 and 2.4 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}
SERVED_ELSEWHERE = ("http", "https", "databricks", "databricks-uc", "uc")


def serve_ui(tracking_uri: str | None, *, host: str, port: int, report: Callable[[str], None]) -> None:
    """Replace this process by MLflow's server on the store; return at once where a server has the store already.

    MissingFileError when nothing has been logged there yet; MadpipeError when the port is taken.
    """
    uri = store_uri(tracking_uri)
    if dialect_of(uri) in SERVED_ELSEWHERE:
        report(f"The store is served already. Next: open {redact(uri)} and pick the 'Model training' view.")
        return
    existing_store(uri)
    check_port(host, port)
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    report(f"MLflow shows {redact(uri)} at http://{shown_host}:{port} (Ctrl-C ends it).")
    report("Next: open it, and pick the 'Model training' view: MLflow opens in its GenAI one.")
    _become_server(uri, host, port)


def check_port(host: str, port: int) -> int:
    """The port to listen on, a free one for 0; MadpipeError where nobody can."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            return int(listener.getsockname()[1])
    except OSError as failure:
        number = failure.errno or 0
        reason = os.strerror(number) if number > 0 else str(failure)  # create_server adds to the text of the first kind
        raise MadpipeError(f"cannot listen on {host}:{port}: {reason}. Try another --port.") from None


def _become_server(uri: str, host: str, port: int) -> NoReturn:
    """The address goes through the environment: a password in the arguments would show in every list of processes.

    `-P` keeps the current folder off the import path, where a file of the user's could stand in for a library.
    """
    environment = os.environ | QUIET_AND_SMALL | {"MLFLOW_BACKEND_STORE_URI": uri}
    root = artifact_root(uri)
    if root:
        environment |= {"MLFLOW_DEFAULT_ARTIFACT_ROOT": root}
    sys.stdout.flush()
    sys.stderr.flush()
    words = [sys.executable, "-P", "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    os.execve(sys.executable, words, environment)
