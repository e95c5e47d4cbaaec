"""One tensor of a .safetensors file as rows, read in blocks through the format's own slices (no torch needed)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from madpipe.data.array_file import ArrayFile, Rows, choose_key
from madpipe.errors import DamagedFileError, ShapeError

NUMPY_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64"}


def open_safetensors(path: Path, key: str | None) -> ArrayFile:
    """The tensor named `key` (the only one, or "x", when None). ShapeError for types NumPy lacks, such as bfloat16."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            name = choose_key(key, list(file.keys()), str(path))
            described = file.get_slice(name)
            shape, dtype = tuple(described.get_shape()), described.get_dtype()
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is no safetensors file or is truncated: {error}") from error
    if dtype not in NUMPY_TYPES:
        raise ShapeError(f"{path}: '{name}' holds {dtype}; save it as float32")
    if not shape:
        raise ShapeError(f"{path}: '{name}' is a single number; it needs one row per input")

    def blocks(size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        end = shape[0] if stop is None else stop
        with safe_open(path, framework="np") as file:
            rows = file.get_slice(name)
            for first in range(start, end, size):
                yield rows[first : min(first + size, end)]

    def whole() -> Rows:
        return np.concatenate(list(blocks(max(shape[0], 1)))) if shape[0] else np.empty(shape)

    return ArrayFile(path, shape[0], shape[1:], blocks, whole)
