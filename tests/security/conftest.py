"""Hostile files: a payload that leaves a trace if it is ever run, and what a refusal must be."""

import importlib.util
import signal
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from madpipe.errors import MadpipeError

MOST_BYTES = 64 * 2**20
MOST_SECONDS = 60  # a hang; a shared machine may be slow


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that is not there unless a payload ran."""
    return tmp_path / "canary"


@pytest.fixture
def payload(canary: Path) -> Payload:
    return Payload(canary)


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"not refused within {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def refusal(canary: Path) -> Callable[[int, Callable[[], Any]], str]:
    """`refusal(4, read)`: the one line with which `read` is refused, in bounded time and memory, nothing run."""

    def check(code: int, read: Callable[[], Any]) -> str:
        tracemalloc.start()
        try:
            with no_hang(), pytest.raises(MadpipeError) as refused:
                read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        line = str(refused.value)
        assert refused.value.exit_code == code, line
        assert "\n" not in line
        assert not canary.exists()
        assert peak < MOST_BYTES, f"{peak:,} bytes"
        return line

    return check


@pytest.fixture(scope="session")
def targets() -> ModuleType:
    """The module beside this file that says what is fuzzed."""
    spec = importlib.util.spec_from_file_location("fuzz_targets", Path(__file__).with_name("targets.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def mutated() -> Callable[[Sequence[bytes]], st.SearchStrategy[bytes]]:
    """`mutated(files)`: one of them with bytes changed, a piece cut out, repeated or taken from another."""

    @st.composite
    def draw_one(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
        content = bytearray(draw(st.sampled_from(files)))
        for _ in range(draw(st.integers(1, 6))):
            start, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
            kind = draw(st.sampled_from(("flip", "flip", "bytes", "cut", "repeat", "splice", "end")))
            if kind == "flip" and start < len(content):
                content[start] ^= 1 << draw(st.integers(0, 7))
            elif kind == "bytes":
                content[start : start + length] = draw(st.binary(max_size=8))
            elif kind == "cut":
                del content[start : start + length]
            elif kind == "repeat":
                content[start:start] = content[start : start + length] * draw(st.integers(1, 3))
            elif kind == "splice":
                other = draw(st.sampled_from(files))
                content[start : start + length] = other[start : start + draw(st.integers(0, 40))]
            else:
                del content[start:]
        return bytes(content)

    return draw_one
