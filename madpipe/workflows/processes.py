"""Jobs in processes of their own, some at a time: what one of them does to itself, even dying, leaves the others be."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS, LEAVE_SECONDS = 0.05, 5.0


@dataclass(frozen=True)
class Ended:
    """code: the exit code, negative for a signal. said: the last line on stderr."""

    name: str
    code: int
    said: str

    @property
    def reason(self) -> str:
        if self.code < 0:
            memory = " (out of memory?)" if -self.code == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-self.code).name}{memory}"
        return self.said or f"its process ended with {self.code}"


def run_in_processes(
    module: str, jobs: Sequence[Mapping[str, Any]], workers: int, logs: Path
) -> Generator[Ended, None, None]:
    """`python -m module` for each job, which is the first line of its stdin, as JSON, and has a `name`.

    Each has one thread. Its stderr is kept in `logs` where it fails. Whatever ends this ends the processes too; they
    are to leave when their stdin is closed, for the case that this process is killed.
    """
    waiting, running = deque(jobs), dict[str, subprocess.Popen[str]]()
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[job["name"]] = _start(module, job, logs)
            over = [name for name, process in running.items() if process.poll() is not None]
            for name in over:
                yield _ended(name, running.pop(name), logs)
            if not over:
                time.sleep(POLL_SECONDS)
    finally:
        _end(list(running.values()))


def _start(module: str, job: Mapping[str, Any], logs: Path) -> "subprocess.Popen[str]":
    environment = os.environ | dict.fromkeys(THREADS, "1")
    with _log(logs, job["name"]).open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # a Ctrl-C at the terminal is for this process, which ends the others
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is over already, and its exit code will tell
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    return process


def _ended(name: str, process: "subprocess.Popen[str]", logs: Path) -> Ended:
    _close(process)
    lines = _log(logs, name).read_text(encoding="utf-8", errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if process.returncode == 0:
        _log(logs, name).unlink()
    return Ended(name, process.returncode, said)


def _end(processes: Sequence["subprocess.Popen[str]"]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)


def _close(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # nobody read what was written last
        process.stdin.close()


def _log(logs: Path, name: str) -> Path:
    return logs / f"{name}.log"
