"""When a training ends before its last step: SIGTERM, or `trainer.max_time` being over. Both wait for a step to end."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from madpipe.errors import OutOfTimeError

SIGTERM_CODE = 128 + signal.SIGTERM


def seconds_of(max_time: str | None) -> float:
    """Of "DD:HH:MM:SS"; no limit without."""
    if max_time is None:
        return float("inf")
    days, hours, minutes, seconds = map(int, max_time.split(":"))
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class Stop:
    """Knows whether one training should end now; its clock starts with it, anew in each command."""

    def __init__(self, max_time: str | None = None):
        self.max_time = max_time
        self._ends = time.monotonic() + seconds_of(max_time)
        self._terminated = False

    @property
    def wanted(self) -> bool:
        return self._terminated or time.monotonic() >= self._ends

    def terminate(self) -> None:
        self._terminated = True

    def ending(self, step: int, steps: int) -> BaseException:
        """What to raise once the checkpoint is written."""
        if self.max_time is None or time.monotonic() < self._ends:
            return SystemExit(SIGTERM_CODE)  # also where another process was told to stop
        return OutOfTimeError(
            f"trainer.max_time: {self.max_time} is over at step {step:,} of {steps:,}, and nothing was written but a "
            "checkpoint; the same command continues from there, for as long again."
        )


class SigtermNote:
    """SIGTERM only notes, so that a step is never cut in two; what handled it before is told as well.

    `take` goes last, once whoever else handles signals has put its handlers in place: Lightning's own exchanges tensors
    between processes inside the handler, which may fall into the middle of another exchange.
    """

    def __init__(self, stop: Stop):
        self.stop = stop
        self.before: Any = None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Remembers who handled SIGTERM, and gives it back to them."""
        self.before = signal.getsignal(signal.SIGTERM)
        try:
            yield
        finally:
            if _in_main_thread() and signal.getsignal(signal.SIGTERM) is not self.before:
                signal.signal(signal.SIGTERM, self.before)

    def take(self) -> None:
        if _in_main_thread() and self.before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop.terminate()
        if callable(self.before):
            self.before(number, frame)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
