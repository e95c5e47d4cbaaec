"""MLflow's scoring server around a packaged pipeline, behind a gate that lets only requests pass that can be scored.

The gate says in one line what is wrong with a request, instead of MLflow's traceback, refuses parameters that MLflow
would ignore, and hands on every request in the one form that the model's signature wants. Beside MLflow's /ping,
/health, /version and /invocations there is /example, a request that can be sent back as it is.
"""

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from madpipe.errors import MadpipeError
from madpipe.pipeline.folder import read_facts
from madpipe.tracking.connection import quiet
from madpipe.tracking.model_registry import FOLDER_IN_MODEL
from madpipe.tracking.scoring_request import ScoringRequest, UnsupportedTypeError, read_request

MODEL_VARIABLE = "MADPIPE_SERVED_MODEL"  # tells worker processes which local model folder to load
MOST_BYTES = 64 * 2**20  # of one request; larger ones are for `madpipe score`, which streams
GRACE_SECONDS = 10  # for requests that are being answered when the server is told to stop
WORKER_SECONDS = 60  # a worker that imports torch on a busy machine is silent for some seconds, and not dead

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
_log = logging.getLogger("madpipe.serving")


def run_server(model_folder: Path, *, host: str, port: int, workers: int, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, and return once open requests are answered; `ready` is called when it answers.

    The process and its workers load no pickle from here on. MadpipeError where no worker comes up.
    """
    os.environ |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", MODEL_VARIABLE: str(model_folder)}
    answered = threading.Event()
    watch = threading.Thread(target=_call_when_healthy, args=(local_url(host, port), answered, ready), daemon=True)
    settings: dict[str, Any] = {"host": host, "port": port, "log_level": "warning", "access_log": False}
    settings |= {
        "http": PromptProtocol,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "timeout_worker_healthcheck": WORKER_SECONDS,
    }
    app: Any = scoring_app() if workers == 1 else "madpipe.tracking.scoring_server:scoring_app"
    watch.start()
    try:
        uvicorn.run(app, factory=workers > 1, workers=workers, **settings)
    except SystemExit:  # uvicorn raises the signal once more when it has answered what was open
        if not answered.is_set():
            raise
    if not answered.is_set():
        raise MadpipeError("the server ended before it answered; what uvicorn says above tells why.")


class PromptProtocol(H11Protocol):
    """Answers are sent as they are written.

    Of a socket that several workers share, asyncio leaves Nagle's algorithm on: the body of an answer then waits 40 ms
    for the client to confirm the head.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)


def local_url(host: str, port: int) -> str:
    """The address under which this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _call_when_healthy(url: str, answered: threading.Event, ready: Callable[[], None]) -> None:
    direct = build_opener(ProxyHandler({}))
    while True:
        try:
            direct.open(f"{url}/ping", timeout=WORKER_SECONDS).close()
            break
        except OSError:
            time.sleep(0.05)
    answered.set()
    ready()


def scoring_app() -> Application:
    """The server's application around the model that the environment names: what every worker runs."""
    folder = Path(os.environ[MODEL_VARIABLE])
    with quiet():
        from mlflow.pyfunc import load_model, scoring_server

        model = load_model(str(folder))
        inner: Application = scoring_server.init(model)
    facts = read_facts(folder / FOLDER_IN_MODEL)
    return Gate(inner, tuple(facts["input_shape"]), facts.get("columns"))


class Gate:
    """The ASGI application in front of MLflow's."""

    def __init__(self, inner: Application, input_shape: tuple[int, ...], columns: Sequence[str] | None):
        self._inner = inner
        self._input_shape = input_shape
        self._columns = list(columns) if columns else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        match (scope["type"], scope.get("method"), scope.get("path")):
            case ("http", "GET", "/example"):
                await _send(send, 200, example_request(self._input_shape, self._columns))
            case ("http", "POST", "/invocations"):
                await self._score(scope, receive, send)
            case _:
                await self._inner(scope, receive, send)

    async def _score(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        if len(body) > MOST_BYTES:
            await _refuse(send, 413, f"the request is larger than {MOST_BYTES // 2**20} MiB; send it in parts.")
            return
        headers = dict(scope["headers"])
        kind, query = headers.get(b"content-type", b"").decode("latin-1"), scope["query_string"].decode("latin-1")
        try:
            asked = await asyncio.to_thread(read_request, body, kind, query, self._input_shape, self._columns)
            handed_on = await asyncio.to_thread(canonical_body, asked, self._columns)
        except MadpipeError as failure:
            await _refuse(send, 415 if isinstance(failure, UnsupportedTypeError) else 400, str(failure))
            return
        status, answer = await self._answer_of_mlflow(scope, handed_on, receive)
        if status == 200:
            await _send(send, status, answer)
        else:
            _log.error("MLflow answered %d: %s", status, answer.decode("utf-8", "replace"))
            await _refuse(send, 504 if status == 504 else 500, "scoring failed; the server's log tells why.")

    async def _answer_of_mlflow(self, scope: Message, body: bytes, receive: Receive) -> tuple[int, bytes]:
        """Status and body of MLflow's answer to a JSON body."""
        parts = [body]
        status, answer = 500, b""

        async def replay() -> Message:
            return {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else await receive()

        async def collect(message: Message) -> None:
            nonlocal status, answer
            status = message.get("status", status)
            answer += message.get("body", b"")

        size = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size)]
        await self._inner({**scope, "headers": headers, "query_string": b""}, replay, collect)
        return status, answer


def canonical_body(asked: ScoringRequest, columns: Sequence[str] | None) -> bytes:
    """The request in the form of the model's signature; numbers keep every bit."""
    rows = asked.rows.tolist()
    data: dict[str, Any] = {"dataframe_split": {"columns": columns, "data": rows}} if columns else {"inputs": rows}
    return json.dumps(data | ({} if asked.alpha is None else {"params": {"alpha": asked.alpha}})).encode()


def example_request(input_shape: tuple[int, ...], columns: Sequence[str] | None) -> bytes:
    """One input of zeros, which every target takes, token ids too."""
    request = ScoringRequest(rows=np.zeros((1, *input_shape), np.float32), alpha=0.05)
    return canonical_body(request, columns)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or the beginning of one that is too large; None where the client has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body") or len(body) > MOST_BYTES:
            return bytes(body)


async def _refuse(send: Send, status: int, line: str) -> None:
    code = {400: "BAD_REQUEST", 413: "TOO_LARGE", 415: "UNSUPPORTED_TYPE", 504: "TIMEOUT"}.get(status, "INTERNAL_ERROR")
    await _send(send, status, json.dumps({"error_code": code, "message": " ".join(line.split())}).encode())


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
