"""Crafted skops files: nothing off the list is built, nothing inflates, nothing is written outside."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.storage import load, save


@pytest.fixture
def parts(tmp_path) -> dict[str, bytes]:
    """The members of a sound file, and where it lay."""
    save(MahalanobisDetector().fit(np.random.default_rng(0).normal(size=(40, 3))), tmp_path / "sound.skops")
    with zipfile.ZipFile(tmp_path / "sound.skops") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def array_name(parts: dict[str, bytes]) -> str:
    return next(name for name in parts if name.endswith(".npy"))


def test_a_schema_that_inflates_is_refused(tmp_path, parts, refusal):
    path = packed(tmp_path / "a.skops", parts | {"schema.json": b" " * (300 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    assert "as a zip bomb does" in refusal(4, lambda: load(path))


def test_an_array_that_claims_gigabytes_is_refused(tmp_path, parts, refusal):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (20000000000000,)}\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    path = packed(tmp_path / "a.skops", parts | {array_name(parts): huge})
    refusal(4, lambda: load(path))


def test_a_pickle_in_the_place_of_an_array_is_not_run(tmp_path, parts, payload, refusal):
    objects = io.BytesIO()
    np.save(objects, np.array([payload], dtype=object), allow_pickle=True)
    for content in (objects.getvalue(), pickle.dumps(payload)):
        path = packed(tmp_path / "a.skops", parts | {array_name(parts): content})
        refusal(4, lambda path=path: load(path))


@pytest.mark.parametrize("name", ["../stolen", "/etc/passwd", "../../../../tmp/stolen"])
def test_a_member_named_outside_is_neither_read_nor_written(tmp_path, parts, name, refusal):
    schema = parts["schema.json"].decode().replace(array_name(parts), name)
    path = packed(tmp_path / "a.skops", parts | {"schema.json": schema.encode()})
    before = sorted(tmp_path.parent.rglob("*"))
    refusal(4, lambda: load(path))
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("loader", "module", "name"),
    [
        ("FunctionNode", "os", "system"),
        ("TypeNode", "subprocess", "Popen"),
        ("PartialNode", "functools", "partial"),
        ("MethodNode", "builtins", "eval"),
        ("ObjectNode", "madpipe.targets.load", "Target"),
        ("TreeNode", "sklearn.tree._tree", "Tree"),
        ("NoSuchNode", "os", "system"),
    ],
)
def test_every_node_of_a_forbidden_type_is_refused(tmp_path, parts, loader, module, name, refusal):
    schema = json.loads(parts["schema.json"])
    schema["content"]["content"]["payload_"] = {
        "__class__": name,
        "__module__": module,
        "__loader__": loader,
        "__id__": 1,
        "content": {"func": {}, "args": {}, "kwds": {}, "namespace": {}, "attrs": {}},
    }
    path = packed(tmp_path / "a.skops", parts | {"schema.json": json.dumps(schema).encode()})
    refusal(4, lambda: load(path))
