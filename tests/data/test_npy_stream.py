"""NumPy's files: hostile ones are refused before they cost memory, honest ones are streamed."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy_format

from madpipe.data.inputs import open_inputs, read_array
from madpipe.data.npy_stream import open_npz
from madpipe.errors import DamagedFileError, ShapeError

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def npy_bytes(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with any header text, true or not."""
    text = header.encode()
    return (
        npy_format.MAGIC_PREFIX
        + version
        + struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
        + text
        + data
    )


def declared(shape: str, dtype: str = "'<f4'", fortran: bool = False) -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


def write(folder: Path, content: bytes, suffix: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / f"a{suffix}"
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("x.npy", content)
    return path


both = pytest.mark.parametrize("suffix", [".npy", ".npz"])


@both
@pytest.mark.parametrize("whole", [True, False])
def test_an_array_of_objects_is_refused_and_nothing_is_unpickled(suffix, whole, tmp_path):
    bomb = "exec('raise SystemExit(\"unpickled\")')"
    data = pickle.dumps(type("Bomb", (), {"__reduce__": lambda self: (eval, (bomb,))})())
    path = write(tmp_path, npy_bytes(declared("(1,)", "'|O'"), data), suffix)
    with pytest.raises(DamagedFileError, match="holds a pickle"):
        read_array(path) if whole else list(open_inputs([path], None, 4))


@both
def test_a_structured_array_with_objects_inside_is_refused(suffix, tmp_path):
    path = write(tmp_path, npy_bytes(declared("(1,)", "[('a', '<f4'), ('b', '|O')]"), bytes(12)), suffix)
    with pytest.raises(DamagedFileError, match="pickle"):
        read_array(path)


@both
def test_a_header_that_declares_more_than_the_file_holds_is_refused(suffix, tmp_path):
    path = write(tmp_path, npy_bytes(declared("(1000000000000, 4)"), bytes(64)), suffix)
    with pytest.raises(DamagedFileError, match="declares 16000000000000 bytes"):
        read_array(path)


@both
def test_a_header_that_declares_less_than_the_file_holds_is_refused(suffix, tmp_path):
    path = write(tmp_path, npy_bytes(declared("(2, 4)"), bytes(64)), suffix)
    with pytest.raises(DamagedFileError, match="truncated or altered"):
        read_array(path)


@both
def test_a_negative_shape_is_refused(suffix, tmp_path):
    path = write(tmp_path, npy_bytes(declared("(-2, -8)"), bytes(64)), suffix)
    with pytest.raises(DamagedFileError):
        read_array(path)


@both
def test_a_long_header_is_refused(suffix, tmp_path):
    path = write(tmp_path, npy_bytes(declared("(1,)") + " " * 70_000, bytes(4), version=b"\x02\x00"), suffix)
    with pytest.raises(DamagedFileError, match="more than 10000 is refused"):
        read_array(path)


@both
@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[1, 2]\n",
        "(" * 5000 + "\n",
        "{'descr': '<f4'}\n",
        declared("'abc'"),
        declared("(1,)", "'nonsense'"),
        "\x00\xff",
    ],
    ids=["empty", "open", "list", "nested", "partial", "shape", "dtype", "bytes"],
)
def test_a_header_that_says_nothing_sensible_is_refused(suffix, header, tmp_path):
    with pytest.raises(DamagedFileError, match="a.np"):
        read_array(write(tmp_path, npy_bytes(header, bytes(4)), suffix))


@both
def test_another_format_version_is_refused(suffix, tmp_path):
    with pytest.raises(DamagedFileError, match="unknown version"):
        read_array(write(tmp_path, npy_bytes(declared("(1,)"), bytes(4), version=b"\x09\x00"), suffix))


@both
def test_a_single_number_has_no_rows(suffix, tmp_path):
    with pytest.raises(ShapeError, match="single number"):
        read_array(write(tmp_path, npy_bytes(declared("()"), bytes(4)), suffix))


@both
def test_format_version_two_is_read(suffix, tmp_path):
    content = npy_bytes(declared("(50, 4)"), X.tobytes(), version=b"\x02\x00")
    np.testing.assert_array_equal(read_array(write(tmp_path, content, suffix)), X)


@both
def test_column_order_is_turned_into_rows(suffix, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(X))
    path = write(tmp_path, buffer.getvalue(), suffix)
    np.testing.assert_array_equal(np.concatenate([x for _, x in open_inputs([path], None, 7)]), X)
    np.testing.assert_array_equal(read_array(path), X)


def test_a_whole_array_may_be_written_to(tmp_path):
    x = np.arange(600_000, dtype=np.float32)  # more than one inflated block
    np.savez_compressed(tmp_path / "a.npz", x=x)
    array = read_array(tmp_path / "a.npz")
    np.testing.assert_array_equal(array, x)
    assert array.flags.writeable


def test_a_changed_byte_fails_the_checksum_of_a_stored_member(tmp_path):
    np.savez(tmp_path / "a.npz", x=X)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(X.tobytes()) + 100] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DamagedFileError, match="CRC"):
        list(open_inputs([tmp_path / "a.npz"], None, 8))


def test_a_directory_that_claims_more_than_deflate_can_give_is_refused(tmp_path):
    path = write(tmp_path, npy_bytes(declared("(16000000, 4)"), bytes(64)), ".npz")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the central directory entry; bytes 24 to 28 are the uncompressed size
    content[entry + 24 : entry + 28] = struct.pack("<I", 256_000_000 + 70)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="more than this file can hold"):
        read_array(path)


def test_a_compression_that_numpy_never_writes_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, X)
    with pytest.raises(DamagedFileError, match="numpy never writes"):
        read_array(write(tmp_path, buffer.getvalue(), ".npz", zipfile.ZIP_LZMA))


def test_a_member_that_is_no_array_is_refused(tmp_path):
    with pytest.raises(DamagedFileError, match="no NumPy array"):
        read_array(write(tmp_path, b"import os; os.system('true')", ".npz"))


def test_streaming_needs_memory_for_a_batch_and_not_for_the_file(tmp_path):
    x = np.zeros((20_000, 100), np.float32)  # 8 MB, which deflate to a few KB
    np.savez_compressed(tmp_path / "a.npz", x=x)
    file = open_npz(tmp_path / "a.npz", "x")
    tracemalloc.start()
    assert sum(len(block) for block in file.blocks(100)) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # a block is 40 KB; zipfile's own buffers are the rest
