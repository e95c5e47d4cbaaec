"""A state dict of torch.save that runs code, inflates, or keeps torch busy for ever is refused with 4."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from madpipe.targets.load import read_state

STATE = {"0.weight": torch.arange(8.0)}
PROTO, EMPTY_DICT, EMPTY_TUPLE, SETITEM, STOP = b"\x80\x02", b"}", b")", b"s", b"."


def members(**options: bool) -> dict[str, bytes]:
    file = io.BytesIO()
    torch.save(STATE, file, **options)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return path


def with_pickle(path: Path, content: bytes) -> Path:
    """What torch.save writes, with another pickle in it."""
    return archive(path, members() | {"archive/data.pkl": content})


def tuples_of_tuples(depth: int) -> bytes:
    """Opcodes for t0 = (), t(n) = (t(n-1), t(n-1)): 2^depth tuples if each is looked at."""
    code = EMPTY_TUPLE + b"q\x00"
    for i in range(depth):
        code += b"h" + bytes([i]) + b"\x86q" + bytes([i + 1])
    return code


@pytest.fixture(params=["archive", "bare", "after a magic number"])
def hostile(request, tmp_path):
    """A file that holds the given pickle where torch.load looks for one."""

    def make(content: bytes) -> Path:
        path = tmp_path / "weights.pt"
        if request.param == "archive":
            return with_pickle(path, content)
        head = b"" if request.param == "bare" else pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
        path.write_bytes(head + content)
        return path

    return make


def test_a_payload_is_not_run(hostile, payload, refusal):
    path = hostile(pickle.dumps(payload, 2))
    assert "cannot be read as tensors alone" in refusal(4, lambda: read_state(path))


@pytest.mark.parametrize(
    "content",
    [
        PROTO + b"cos\nsystem\nX\x05\x00\x00\x00false\x85R.",
        PROTO + b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        PROTO + b"ctorch\nload\nX\x01\x00\x00\x001\x85R.",
        PROTO + b"ctorch.hub\nload\nX\x01\x00\x00\x001\x85R.",
        PROTO + b"c__builtin__\nbytearray\nJ" + struct.pack("<i", 2**30) + b"\x85R.",
        PROTO + EMPTY_DICT + tuples_of_tuples(60) + b"K\x01" + SETITEM + STOP,
        PROTO + b"(" * 50_000,
        PROTO + b"}q\x00h\x00K\x01" + SETITEM + STOP,
        b"",
    ],
    ids=["os.system", "eval", "torch.load", "torch.hub", "a gigabyte", "tuples", "marks", "a dict as key", "nothing"],
)
def test_a_pickle_that_is_no_state_dict_is_refused(hostile, content, refusal):
    path = hostile(content)
    refusal(4, lambda: read_state(path))


def test_an_archive_that_inflates_is_refused(tmp_path, refusal):
    parts = members() | {"archive/data/0": bytes(300 * 2**20)}
    parts["archive/data.pkl"] = parts["archive/data.pkl"].replace(
        b"K\x08t", b"J" + struct.pack("<i", 75 * 2**20) + b"t"
    )
    path = archive(tmp_path / "weights.pt", parts, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    refusal(4, lambda: read_state(path))


def test_a_storage_that_claims_more_than_it_has_is_refused(tmp_path, refusal):
    parts = members()
    parts["archive/data.pkl"] = parts["archive/data.pkl"].replace(b"K\x08t", b"J" + struct.pack("<i", 2**31 - 1) + b"t")
    path = archive(tmp_path / "weights.pt", parts)
    refusal(4, lambda: read_state(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(zipped, tmp_path):
    tied = torch.ones(2, 2)
    torch.save(STATE | {"a": tied, "b": tied}, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    assert list(read_state(tmp_path / "weights.pt")) == ["0.weight", "a", "b"]
