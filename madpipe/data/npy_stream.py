"""NumPy's own files, .npy and .npz, in blocks: nothing is unpickled, no size believed that the file does not hold."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from madpipe.data.array_file import ArrayFile, Rows, check_dtype, choose_key, refuse_bomb
from madpipe.errors import DamagedFileError, ShapeError

LARGEST_HEADER = 10_000  # bytes; NumPy writes 128 or a little more, and calls parsing longer ones unsafe
LARGEST_DEFLATE_RATIO = 1032  # what one byte of deflate can at most become; a member claiming more is lying
WHOLE_BLOCK = 2**20  # bytes inflated at a time when everything is wanted
BROKEN = (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, NotImplementedError, zlib.error)


@dataclass(frozen=True)
class Header:
    """What an array's header declares, and the byte at which its data begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def data_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize


def read_header(file: IO[bytes], held_bytes: int, source: str) -> Header:
    """The header at the start of `file`, which holds `held_bytes` in all.

    Raises DamagedFileError unless the header is small, readable, and declares exactly the bytes that follow it.
    """
    prefix = _exactly(file, 8, source)
    widths = {b"\x01\x00": 2, b"\x02\x00": 4}
    if prefix[:6] != npy_format.MAGIC_PREFIX or prefix[6:] not in widths:
        raise DamagedFileError(f"{source} is no NumPy array (or of an unknown version); save it again with numpy")
    length_field = _exactly(file, widths[prefix[6:]], source)
    length = int.from_bytes(length_field, "little")
    if length > LARGEST_HEADER:
        raise DamagedFileError(f"{source} declares a header of {length} bytes; more than {LARGEST_HEADER} is refused")
    text = BytesIO(length_field + _exactly(file, length, source))
    read = npy_format.read_array_header_1_0 if prefix[6] == 1 else npy_format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(text, max_header_size=LARGEST_HEADER)
    except Exception as error:  # numpy evaluates and tokenises the text, and lets whatever that raises through
        raise DamagedFileError(f"{source} has a header that cannot be read; save it again with numpy") from error
    check_dtype(dtype, source)
    header = Header(tuple(map(int, shape)), bool(fortran), dtype, 8 + len(length_field) + length)
    held = held_bytes - header.offset
    if min(header.shape, default=0) < 0 or header.data_bytes != held:
        raise DamagedFileError(
            f"{source} declares {header.data_bytes} bytes of data, shape {header.shape}, and holds {held}; "
            "it is truncated or altered"
        )
    if not header.shape:
        raise ShapeError(f"{source} is a single number; it needs one row per input")
    return header


def open_npy(path: Path, key: str | None) -> ArrayFile:
    """A .npy file, memory-mapped when wanted whole; `key` has no meaning here and is ignored."""
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size, str(path))

    def whole() -> Rows:
        if header.data_bytes == 0:
            return np.empty(header.shape, header.dtype)
        order = "F" if header.fortran else "C"
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload]

    def blocks(size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        end = header.shape[0] if stop is None else stop
        if header.fortran and len(header.shape) > 1:
            array = whole()
            yield from (np.array(array[first : min(first + size, end)]) for first in range(start, end, size))
            return
        with path.open("rb") as file:  # read, not mapped: pages of a mapped file stay in the process's memory
            file.seek(header.offset + start * header.row_bytes)
            yield from _row_blocks(file, header, size, str(path), end - start)

    return ArrayFile(path, header.shape[0], header.shape[1:], blocks, whole)


def open_npz(path: Path, key: str | None) -> ArrayFile:
    """One member of a .npz file, inflated as it is read.

    An array in Fortran order has no rows to stream: it is read whole, once its size is known to be honest.
    """
    member = _choose_member(path, key)
    source = f"{path}: {member}"
    with _member(path, member, source) as (_, header):
        pass

    def whole() -> Rows:
        with _member(path, member, source) as (file, _):
            data = np.empty(header.data_bytes, np.uint8)
            for start in range(0, len(data), WHOLE_BLOCK):
                count = min(WHOLE_BLOCK, len(data) - start)
                data[start : start + count] = np.frombuffer(_exactly(file, count, source), np.uint8)
            _finish(file, source)
        return data.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")

    def blocks(size: int, start: int = 0, stop: int | None = None) -> Iterator[Rows]:
        end = header.shape[0] if stop is None else stop
        if header.fortran and len(header.shape) > 1:
            array = whole()
            yield from (array[first : min(first + size, end)] for first in range(start, end, size))
            return
        with _member(path, member, source) as (file, _):
            _pass_over(file, start * header.row_bytes, source)
            yield from _row_blocks(file, header, size, source, end - start)
            if end == header.shape[0]:
                _finish(file, source)

    return ArrayFile(path, header.shape[0], header.shape[1:], blocks, whole)


def _choose_member(path: Path, key: str | None) -> str:
    with _archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    return choose_key(key, names, str(path))


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise DamagedFileError(f"{path} is no .npz archive or is truncated; save it again with numpy.savez") from error
    with archive:
        yield archive


@contextmanager
def _member(path: Path, member: str, source: str) -> Iterator[tuple[IO[bytes], Header]]:
    """The open member, positioned at its data, and its header."""
    with _archive(path) as archive:
        info = archive.getinfo(f"{member}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DamagedFileError(
                f"{source} is compressed in a way numpy never writes; save it again with numpy.savez"
            )
        if info.file_size > LARGEST_DEFLATE_RATIO * path.stat().st_size:
            raise DamagedFileError(f"{source} claims {info.file_size} bytes, more than this file can hold")
        refuse_bomb(info.file_size, min(info.compress_size, path.stat().st_size), source)
        try:
            file = archive.open(info)
        except BROKEN as error:
            raise DamagedFileError(f"{source} cannot be read: {error}") from error
        with file:
            yield file, read_header(file, info.file_size, source)


def _exactly(file: IO[bytes], count: int, source: str) -> bytes:
    """`count` bytes, or DamagedFileError: the file ends early or fails its checksum."""
    try:
        data = file.read(count)
        while len(data) < count and (more := file.read(count - len(data))):
            data += more
    except BROKEN as error:
        raise DamagedFileError(f"{source} is damaged: {error}") from error
    if len(data) != count:
        raise DamagedFileError(f"{source} is truncated: {count} bytes expected, {len(data)} there")
    return data


def _finish(file: IO[bytes], source: str) -> None:
    """Reads on to the end of the member, where zipfile compares the checksum."""
    try:
        file.read(1)
    except BROKEN as error:
        raise DamagedFileError(f"{source} is damaged: {error}") from error


def _pass_over(file: IO[bytes], count: int, source: str) -> None:
    """Moves `count` bytes on in an archive's member, whose bytes have no place of their own, a block at a time."""
    for start in range(0, count, WHOLE_BLOCK):
        _exactly(file, min(WHOLE_BLOCK, count - start), source)


def _row_blocks(file: IO[bytes], header: Header, size: int, source: str, count: int) -> Iterator[Rows]:
    """`count` rows in blocks of `size` from a file that stands at the first of them."""
    for start in range(0, count, size):
        rows = min(size, count - start)
        data = _exactly(file, rows * header.row_bytes, source)
        yield np.frombuffer(data, header.dtype).reshape(rows, *header.shape[1:])
