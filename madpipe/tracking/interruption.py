"""SIGTERM as an exception, so that a run which is told to stop can be closed as KILLED."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) inside, unless someone else already handles it.

    Lightning calls the handler it finds besides its own, which waits for the end of a step and then raises by itself:
    while Lightning's stands in place, ours does nothing.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(signum: int, frame: FrameType | None) -> None:
    if signal.getsignal(signal.SIGTERM) is _leave:
        raise SystemExit(128 + signum)
