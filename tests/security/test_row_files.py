"""Files of inputs made to run code, to fill the memory or to hang are refused with 4, before anything is allocated."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madpipe.components.checkpoint import load_tensors
from madpipe.data.inputs import open_inputs, read_array
from madpipe.targets.load import read_state

GIB = 2**30


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def declared(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def put(path: Path, content: bytes) -> Path:
    """`content` as a .npy, or as the only member of a .npz."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
    else:
        path.write_bytes(content)
    return path


@pytest.fixture(params=[".npy", ".npz"])
def path(request, tmp_path) -> Path:
    return tmp_path / f"rows{request.param}"


def readers(path: Path):
    return (lambda: read_array(path), lambda: list(open_inputs([path], None, 8)))


def test_a_pickled_payload_is_not_run(path, payload, refusal):
    file = io.BytesIO()
    np.save(file, np.array([[payload]] * 3), allow_pickle=True)
    for read in readers(put(path, file.getvalue())):
        assert "holds a pickle, which is never loaded" in refusal(4, read)


@pytest.mark.parametrize(
    "header",
    [
        declared("(2000000000, 4)"),
        declared("(4611686018427387904, 4)"),
        declared("(4611686018427387904, 0)"),
        declared("(0, 4611686018427387904)"),
        declared("(-1, 4)"),
        declared("(3,)", "('<f4', (1000000000,))"),
        declared("(3,)", "'<V2000000000'"),
        declared("(True, 4)"),
    ],
)
def test_shapes_that_the_file_cannot_hold_are_refused_unallocated(path, header, refusal):
    for read in readers(put(path, npy(header))):
        refusal(4, read)


@pytest.mark.parametrize(
    "header",
    [
        "__import__('pathlib').Path('canary').touch()",
        "{'descr': __import__('pathlib').Path('canary').touch(), 'fortran_order': False, 'shape': (1,)}",
        declared("(1,)") + " or __import__('pathlib').Path('canary').touch()",
        "[" * 9000,
        "-" * 9000 + "1",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}",
    ],
)
def test_code_in_a_header_is_not_run(path, header, refusal, monkeypatch):
    monkeypatch.chdir(path.parent)
    for read in readers(put(path, npy(header, bytes(4)))):
        assert "header that cannot be read" in refusal(4, read)


def test_an_array_that_says_gigabytes_in_the_directory_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.npz"
    np.savez_compressed(path, x=np.zeros((10, 4), np.float32))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 4 * GIB - 1)
    path.write_bytes(content)
    for read in readers(path):
        assert "more than this file can hold" in refusal(4, read)


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path, refusal):
    path, rows = tmp_path / "rows.npz", 17 * 2**20  # of 64 bytes: 1.06 GiB, in the file 1 MB
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(npy(declared(f"({rows}, 16)")))
        zeros = bytes(2**20)
        for _ in range(rows * 64 // 2**20):
            member.write(zeros)
    assert path.stat().st_size < 10 * 2**20
    for read in readers(path):
        assert "as a zip bomb does" in refusal(4, read)


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


TWICE = (
    b'{"x":{"dtype":"F32","shape":[1,4],"data_offsets":[0,16]},"x":{"dtype":"F32","shape":[4,1],"data_offsets":[0,16]}}'
)
HOSTILE_SAFETENSORS = {
    "header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "header of nearly 2^64": struct.pack("<Q", 2**64 - 1) + b"{}",
    "negative offsets": safetensors({"x": tensor([1, 4], -16, 0)}, bytes(16)),
    "offsets past the end": safetensors({"x": tensor([1, 4], 0, 2**40)}, bytes(16)),
    "offsets turned round": safetensors({"x": tensor([1, 4], 16, 0)}, bytes(16)),
    "overlapping": safetensors({"x": tensor([1, 4], 0, 16), "y": tensor([1, 4], 8, 24)}, bytes(24)),
    "a gap": safetensors({"x": tensor([1, 4], 8, 24)}, bytes(24)),
    "shape beyond its bytes": safetensors({"x": tensor([2**31, 2**31], 0, 16)}, bytes(16)),
    "shape that overflows": safetensors({"x": tensor([2**63, 2, 0], 0, 0)}),
    "negative shape": safetensors({"x": tensor([-1, 4], 0, 16)}, bytes(16)),
    "rows without values": safetensors({"x": tensor([2**60, 0], 0, 0)}),
    "unknown type": safetensors({"x": tensor([1, 4], 0, 16, "PICKLE")}, bytes(16)),
    "deep header": safetensors(b'{"x":' * 20_000),
    "bytes that no tensor has": safetensors({"x": tensor([1, 4], 0, 16)}, bytes(32)),
}


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS)
def test_a_crafted_safetensors_file_is_refused(content, tmp_path, refusal):
    path = tmp_path / "rows.safetensors"
    path.write_bytes(content)
    for read in readers(path):
        refusal(4, read)


def test_of_a_key_given_twice_every_reader_takes_the_last(tmp_path):
    """One parser reads all safetensors files, so that no two readers can be told different things."""
    path = tmp_path / "rows.safetensors"
    path.write_bytes(safetensors(TWICE, bytes(16)))
    assert read_array(path).shape == (4, 1) == load_tensors(path)["x"].shape == read_state(path)["x"].shape


def test_a_parquet_file_of_few_bytes_for_many_rows_is_not_read_whole(tmp_path, refusal):
    """A thousand million bytes of equal values take a few kilobytes; as rows of a batch they stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, block = tmp_path / "rows.parquet", pa.table({"a": pa.array(np.zeros(2**22))})
    with pq.ParquetWriter(path, block.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(block)
    assert path.stat().st_size < 2**20
    assert "as a zip bomb does" in refusal(4, lambda: read_array(path))
    assert len(next(iter(open_inputs([path], None, 8)))[1]) == 8


def test_one_endless_field_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1," + "9" * 2**20 + "\n")
    for read in readers(path):
        refusal(4, read)


def test_an_unclosed_quote_is_refused(tmp_path, refusal):
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n1,"' + "2,\n" * 100_000)
    for read in readers(path):
        refusal(4, read)


def test_a_table_of_formulas_is_text_and_refused(tmp_path, refusal):
    path = tmp_path / "rows.csv"
    pd.DataFrame({"a": ["=cmd|' /C calc'!A0"]}).to_csv(path, index=False)
    for read in readers(path):
        assert "not numeric" in refusal(4, read)
