"""Saved detectors: nothing that is not on the list is ever built from a file."""

import io
import json
import operator
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from madpipe.detectors.detector import Detector
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.storage import allowed_types, load, save
from madpipe.detectors.surprise import Surprise
from madpipe.errors import DamagedFileError, MadpipeError, MissingFileError
from madpipe.registry import DETECTORS

TRUSTED = np.random.default_rng(0).normal(size=(40, 3))
BUILT: list[str] = []


class Stranger(Detector):
    """A detector that nobody registered; remembers that it was built."""

    def __setstate__(self, state):
        BUILT.append("Stranger")


@pytest.fixture
def saved(tmp_path) -> Path:
    save(MahalanobisDetector().fit(TRUSTED), tmp_path / "detector.skops")
    return tmp_path / "detector.skops"


def altered(path: Path, old: str, new: str) -> Path:
    """The same archive with its schema's text changed, as an attacker would."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = members["schema.json"].decode()
    assert old in schema
    members["schema.json"] = schema.replace(old, new).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_type_that_is_not_registered_is_refused_unbuilt(tmp_path):
    BUILT.clear()
    stranger = Stranger()
    stranger.harmless = 1
    skops.io.dump(stranger, tmp_path / "detector.skops")
    with pytest.raises(DamagedFileError, match=r"not allowed.*Stranger"):
        load(tmp_path / "detector.skops")
    assert not BUILT


def test_a_forbidden_type_inside_an_allowed_detector_is_refused(tmp_path):
    detector = MahalanobisDetector().fit(TRUSTED)
    detector.payload_ = partial(print, "called")
    save(detector, tmp_path / "detector.skops")
    with pytest.raises(DamagedFileError, match="not allowed"):
        load(tmp_path / "detector.skops")


def test_a_method_caller_inside_an_allowed_detector_is_refused(tmp_path):
    detector = MahalanobisDetector().fit(TRUSTED)
    detector.payload_ = operator.methodcaller("system", "true")
    save(detector, tmp_path / "detector.skops")
    with pytest.raises(DamagedFileError, match="not allowed"):
        load(tmp_path / "detector.skops")


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("madpipe.registry", "Table")]
)
def test_a_file_whose_class_was_renamed_is_refused(module, name, saved):
    altered(saved, '"madpipe.detectors.mahalanobis"', f'"{module}"')
    altered(saved, '"MahalanobisDetector"', f'"{name}"')
    with pytest.raises(DamagedFileError):
        load(saved)


def test_an_estimator_that_is_no_detector_is_refused(tmp_path):
    skops.io.dump(LinearRegression(), tmp_path / "detector.skops")
    with pytest.raises(DamagedFileError, match="LinearRegression, which is no detector"):
        load(tmp_path / "detector.skops")


def test_an_array_of_pickled_objects_is_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    array = next(name for name in members if name.endswith(".npy"))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members[array] = buffer.getvalue()
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DamagedFileError):
        load(saved)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(100)], ids=["empty", "text", "zip"])
def test_what_is_no_archive_is_damaged(content, tmp_path):
    (tmp_path / "detector.skops").write_bytes(content)
    with pytest.raises(DamagedFileError, match="detector.skops"):
        load(tmp_path / "detector.skops")


def test_a_file_cut_short_is_damaged(saved):
    saved.write_bytes(saved.read_bytes()[:-30])
    with pytest.raises(DamagedFileError):
        load(saved)


@pytest.mark.parametrize("schema", ["", "[]", "{}", "{", '{"__class__": "dict"}', "[" * 100_000], ids=range(6))
def test_a_schema_that_says_nothing_sensible_is_damaged(schema, tmp_path):
    with zipfile.ZipFile(tmp_path / "detector.skops", "w") as archive:
        archive.writestr("schema.json", schema)
    with pytest.raises(DamagedFileError):
        load(tmp_path / "detector.skops")


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingFileError, match="no detector file"):
        load(tmp_path / "detector.skops")


def test_every_error_is_one_line(saved):
    altered(saved, '"madpipe.detectors.mahalanobis"', '"os"')
    with pytest.raises(MadpipeError) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_the_list_is_the_registry():
    assert set(allowed_types()) >= {name.replace(":", ".") for name in DETECTORS.values()}


def test_no_saved_file_holds_a_pickle(tmp_path):
    save(Surprise().fit(TRUSTED), tmp_path / "detector.skops")
    with zipfile.ZipFile(tmp_path / "detector.skops") as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".json", ".npy"}
        json.loads(archive.read("schema.json"))
