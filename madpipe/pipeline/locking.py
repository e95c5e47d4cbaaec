"""One process at a time: a lock on a file that the system lets go when its holder ends, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madpipe.errors import MissingFileError


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds `path`, an empty file that stays. MissingFileError with the text `busy` while another process does."""
    try:
        lock = path.open("w")
    except OSError as error:
        raise MissingFileError(f"cannot write {path}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MissingFileError(busy) from None
        yield
