"""One array in one file, as every format's reader hands it on: its row count, its row shape, and its rows in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from madpipe.errors import DamagedFileError, ShapeError, UnknownNameError, nearest

Rows = NDArray[Any]
NUMERIC_KINDS = "biuf"  # bool, int, unsigned, float
BOMB_BYTES = 2**30  # what a compressed array may always hold
BOMB_RATIO = 100  # above that: times the bytes it takes in the file; real data shrink tenfold at best


class Blocks(Protocol):
    """The rows start <= r < stop in order, at most `size` at a time, in memory for one block; stop None: to the end."""

    def __call__(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]: ...


@dataclass(frozen=True)
class ArrayFile:
    """Nothing but the header is read until `blocks` or `whole` is called.

    row_count, row_shape: None where the file does not say before it is read. blocks may be called again; where the
    format has rows at known places (.npy, .safetensors) only those asked for are read. whole: everything, memory-mapped
    where the format allows. columns: the names, in order, of a table's columns of one number per row; None where values
    have no names.
    """

    path: Path
    row_count: int | None
    row_shape: tuple[int, ...] | None
    blocks: Blocks
    whole: Callable[[], Rows]
    columns: tuple[str, ...] | None = None


def check_dtype(dtype: np.dtype[Any], source: str) -> None:
    """Only booleans, integers and real floats; DamagedFileError for Python objects, which only a pickle can hold."""
    if dtype.hasobject:
        raise DamagedFileError(f"{source} holds a pickle, which is never loaded; save it as a plain numeric array")
    if dtype.kind not in NUMERIC_KINDS:
        raise ShapeError(f"{source} holds {dtype}; inputs must be booleans, integers or real numbers")


def refuse_bomb(inflated: int, held: int, source: str) -> None:
    """DamagedFileError where `held` compressed bytes claim to be so many that reading them would fill the memory."""
    if inflated > max(BOMB_BYTES, BOMB_RATIO * held):
        raise DamagedFileError(
            f"{source} claims {inflated:,} bytes out of {held:,} compressed ones, as a zip bomb does; "
            "if that is right, save it uncompressed (.npy)"
        )


def choose_key(key: str | None, names: list[str], source: str) -> str:
    """The array asked for; without a key the only one, else the one named 'x'."""
    if not names:
        raise UnknownNameError(f"{source} holds no array")
    if key is None and len(names) == 1:
        return names[0]
    wanted = "x" if key is None else key
    if wanted in names:
        return wanted
    if key is None:
        raise UnknownNameError(
            f"{source} holds several arrays ({', '.join(sorted(names))}) and none is named 'x'; name one with key"
        )
    raise UnknownNameError(f"{source} has no array '{key}'.{nearest(key, names)}")


def cut_blocks(blocks: Iterator[Rows], start: int, stop: int | None) -> Iterator[Rows]:
    """What lies in start <= r < stop of blocks that begin at row 0, for formats whose rows have no known place."""
    first = 0
    for block in blocks:
        if stop is not None and first >= stop:
            return
        part = block[max(start - first, 0) : None if stop is None else stop - first]
        first += len(block)
        if len(part):
            yield part
