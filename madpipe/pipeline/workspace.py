"""The working folder of one fit or decomposition, `<output>.partial`: what it is resumed from once interrupted."""

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import load_json, save_json
from madpipe.errors import DamagedFileError, MissingFileError
from madpipe.pipeline.folder import PIPELINE, STAGED, folder_digest, partial_folder
from madpipe.pipeline.locking import locked

STATE = "fit.json"
JOIN_SECONDS = 600  # a leader may first have a store to reach and weights to load


@dataclass(frozen=True)
class Workspace:
    """`resumed` is whether checkpoints of the same fit were found. `notes` outlive an interruption."""

    folder: Path
    resumed: bool
    notes: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def token(self) -> str:
        """A name for this work, the same in all attempts at it."""
        return str(self.notes["token"])

    def note(self, **values: Any) -> None:
        """Remember values (run ids) for a resumed fit."""
        self.notes.update(values)
        partial = self.folder / f"{STATE}.partial"
        save_json(self.notes, partial)
        os.replace(partial, self.folder / STATE)  # whole or not at all: without it a fit begins anew


@contextmanager
def open_workspace(output: Path, identity: Mapping[str, Any]) -> Iterator[Workspace]:
    """The workspace of the fit that `identity` describes; what another fit left there is cleared away.

    MissingFileError while another process writes to the same output.
    """
    folder = partial_folder(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingFileError(f"cannot write beside {output}: {error.strerror}; choose another -o.") from None
    with locked(folder / "lock", f"another process is writing {output} now; wait for it, or choose another -o."):
        key = _key(identity)
        notes = _notes(folder)
        resumed = notes.get("identity") == key
        if not resumed:
            notes = {"identity": key}
            for name in ("checkpoints", STAGED):
                shutil.rmtree(folder / name, ignore_errors=True)
        workspace = Workspace(folder, resumed, {"token": uuid.uuid4().hex} | notes)
        workspace.note()
        yield workspace


def published_unrecorded(output: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `output` is what the work of `identity` made before it was interrupted, short of being logged."""
    notes = _notes(partial_folder(output))
    made = notes.get("identity") == _key(identity) and (output / PIPELINE.manifest).is_file()
    return made and notes.get("published") == folder_digest(output)


def join_workspace(output: Path, identity: Mapping[str, Any]) -> Workspace:
    """The workspace that another process, which trains with this one, has opened for the work of `identity`.

    MissingFileError after JOIN_SECONDS without one.
    """
    folder, ends = partial_folder(output), time.monotonic() + JOIN_SECONDS
    while time.monotonic() < ends:
        if _is_locked(folder / "lock") and _notes(folder).get("identity") == _key(identity):
            return Workspace(folder, True, _notes(folder))
        time.sleep(0.2)
    raise MissingFileError(
        f"no process with rank 0 works in {folder}; give every process the same config and -o, on one file system."
    )


def _is_locked(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _key(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()


def _notes(folder: Path) -> dict[str, Any]:
    try:
        return load_json(folder / STATE) if (folder / STATE).exists() else {}
    except DamagedFileError:
        return {}
