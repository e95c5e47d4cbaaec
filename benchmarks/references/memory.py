"""Peaks of resident memory, in MiB, as Linux counts them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


def with_peak(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and how much resident memory it had at most, above what was there before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: that of a parent process is inherited
    before = _resident("VmRSS")
    result = work()
    return result, _resident("VmHWM") - before


def _resident(kind: str) -> float:
    """VmRSS, resident memory, or VmHWM, its peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) / 1024
