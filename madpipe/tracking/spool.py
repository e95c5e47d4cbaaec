"""What an MLflow store could not take, kept beside the result until it can: `<result>.unsent/`.

store.json      where it belongs: the address, without credentials, and the experiment
journal.jsonl   one operation a line (see operations.py), in the order in which they were written down
files/          what artifacts and models are made of; of a pipeline all but its trusted rows

Sending performs the journal from its first line and then removes the folder. Operations may be performed twice, so what
ends in the middle is begun again.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madpipe.errors import DamagedFileError, MissingFileError, TrackingError, UnreachableError
from madpipe.pipeline.locking import locked
from madpipe.tracking.addresses import redact
from madpipe.tracking.connection import border, bounded, bounded_upload, impatient, quiet
from madpipe.tracking.operations import Operation, Performer, is_local, local_model, local_run, path_of

RETRY_SECONDS = 60.0  # how often a store that went away is asked whether it is back
_JOURNAL, _WHERE, _FILES = "journal.jsonl", "store.json", "files"


def unsent_folder(output: Path) -> Path:
    return output.with_name(output.name + ".unsent")


def is_spool(folder: Path) -> bool:
    return (folder / _JOURNAL).is_file()


@dataclass
class Spool:
    """Performs operations, or keeps them in `folder` while the store is away; once one is kept, so are those after it.

    report: is told, in one line, when the store goes away and when it is back.
    """

    folder: Path
    performer: Performer
    experiment: str
    report: Callable[[str], None]
    _ask_again_at: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        """TrackingError where the folder holds what belongs to another store."""
        if self.waiting and _where(self.folder) != self._here():
            raise TrackingError(
                f"{self.folder} keeps what could not be sent to {_where(self.folder)['address']}. "
                f"Send it first (madpipe sync {self.folder}), or delete it."
            )

    @property
    def waiting(self) -> bool:
        return is_spool(self.folder)

    def write(self, operation: Operation, *, again: bool = False) -> str | None:
        """As `Performer.perform`; what it would return is a name that stands for it where the operation is kept."""
        if self.waiting and time.monotonic() >= self._ask_again_at:
            self._try_to_send()
        if not self.waiting:
            try:
                return _perform(self.performer, operation, again=again)
            except UnreachableError as error:
                kept = f"what cannot be sent is kept, for 'madpipe sync {self.folder}'"
                self.report(f"Warning: {error}. Going on; {kept}, unless it answers before the end.")
        return self.keep(operation)

    def keep(self, operation: Operation) -> str | None:
        """Write the operation down, with copies of its files."""
        self._ask_again_at = time.monotonic() + RETRY_SECONDS
        with _alone(self.folder):
            self.folder.mkdir(exist_ok=True)
            if not (self.folder / _WHERE).exists():
                (self.folder / _WHERE).write_text(json.dumps(self._here(), indent=2), encoding="utf-8")
            _append(self.folder / _JOURNAL, {**operation, **_copied(operation, self.folder)})
        return _stand_in(operation)

    def send(self) -> None:
        """Everything that is kept, if the store answers within seconds; UnreachableError where it does not."""
        self._ask_again_at = time.monotonic() + RETRY_SECONDS
        with border(self.performer.place.uri, "cannot reach"), quiet(), impatient():
            self.performer.place.client.search_experiments(max_results=1)
        count = send(self.folder, self.performer)
        self.report(f"{redact(self.performer.place.uri)} answers again; it has all {count} writes that were kept.")

    def settle(self) -> Path | None:
        """One last try to send what is kept; the folder where it stays, None where nothing is kept."""
        if self.waiting:
            self._try_to_send()
        return self.folder if self.waiting else None

    def _try_to_send(self) -> None:
        """MissingFileError: another process, `madpipe sync`, is sending now or has just sent all of it."""
        with suppress(UnreachableError, MissingFileError):
            self.send()

    def holds_run(self, identifier: str) -> bool:
        """Whether a run that this names is being kept, or was sent since."""
        if not is_local(identifier):
            return False
        if any(local_run(operation.get("key", "")) == identifier for operation in _operations(self.folder)):
            return True
        with suppress(TrackingError), border(self.performer.place.uri, "cannot look into"), quiet(), impatient():
            return bool(self.performer.run_id(identifier))
        return False

    def _here(self) -> dict[str, str]:
        return {"address": redact(self.performer.place.uri), "experiment": self.experiment}


def send(folder: Path, performer: Performer) -> int:
    """Perform what `folder` keeps, remove it, and return the number of operations.

    TrackingError where the store refuses one, UnreachableError where it does not answer: then all is kept.
    MissingFileError while another process sends it.
    """
    done = 0
    with locked(folder / "lock", f"another process is sending {folder} now; wait for it."):
        while True:
            kept = _operations(folder)
            for number, operation in enumerate(kept[done:], done + 1):
                try:
                    _perform(performer, _absolute(operation, folder), again=True)
                except TrackingError as error:
                    raise type(error)(f"write {number} of {len(kept)} in {folder} is not sent: {error}") from None
            done = len(kept)
            with _alone(folder):
                if len(_operations(folder)) == done:
                    shutil.rmtree(folder)
                    return done


def where_kept(folder: Path) -> tuple[str, str]:
    """(address without credentials, experiment) that a folder of unsent operations belongs to."""
    where = _where(folder)
    return where["address"], where["experiment"]


def _where(folder: Path) -> dict[str, str]:
    try:
        where = json.loads((folder / _WHERE).read_text(encoding="utf-8"))
        return {name: str(where[name]) for name in ("address", "experiment")}
    except (OSError, ValueError, LookupError, TypeError):
        raise DamagedFileError(f"{folder / _WHERE}: names no address and experiment.") from None


def _perform(performer: Performer, operation: Operation, again: bool = False) -> str | None:
    doing = "cannot start a run in" if operation["do"] == "start" else "cannot write to"
    patience = bounded_upload if path_of(operation) else bounded
    with border(performer.place.uri, doing), quiet(), patience():
        return performer.perform(operation, again)


def _stand_in(operation: Operation) -> str | None:
    match operation["do"]:
        case "start":
            return local_run(operation["key"])
        case "model":
            return local_model(operation["run"], operation["name"])
    return None


def _copied(operation: Operation, folder: Path) -> dict[str, str]:
    """The path of a copy, relative to the folder, in the place of one that may be gone when it is sent."""
    original = path_of(operation)
    if original is None:
        return {}
    (folder / _FILES).mkdir(exist_ok=True)
    number = len(list((folder / _FILES).iterdir()))
    copy = folder / _FILES / str(number) / original.name
    if original.is_dir():
        shutil.copytree(original, copy, ignore=_trusted_rows(original) if operation["do"] == "pipeline" else None)
    else:
        copy.parent.mkdir()
        shutil.copy2(original, copy)
    return {"path": copy.relative_to(folder).as_posix()}


def _trusted_rows(pipeline: Path) -> Callable[[str, list[str]], set[str]]:
    return lambda at, names: {"trusted"} & set(names) if Path(at) == pipeline else set()


def _absolute(operation: Operation, folder: Path) -> Operation:
    path = path_of(operation)
    if path is None:
        return operation
    found = (folder / path).resolve()
    if path.parts[0] != _FILES or not found.is_relative_to(folder.resolve()) or not found.exists():
        raise DamagedFileError(f"{folder / _JOURNAL}: names {path}, which is not among its files.")
    return {**operation, "path": str(found)}


def _append(path: Path, operation: Mapping[str, Any]) -> None:
    with path.open("a+b") as journal:
        journal.seek(0)
        journal.truncate(journal.read().rfind(b"\n") + 1)  # a line that was not finished was never promised
        journal.write(json.dumps(operation).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())


def _operations(folder: Path) -> list[dict[str, Any]]:
    path = folder / _JOURNAL
    if not path.exists():
        return []
    try:
        kept = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except ValueError:
        raise DamagedFileError(f"{path}: holds a line that is no JSON.") from None
    if not all(isinstance(operation, dict) and {"do"} <= operation.keys() for operation in kept):
        raise DamagedFileError(f"{path}: holds a line that is no operation.")
    return kept


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time writes or removes `folder`. The folder that it lies in is locked: it stays."""
    holder = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(holder)
