"""A pipeline folder is whole, unaltered and free of pickles, or it is refused with the name of the file."""

import json
import os
import pickle
import py_compile
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from madpipe.config.schema import DEFAULT_MEMBERS
from madpipe.errors import DamagedFileError, MissingFileError
from madpipe.pipeline.folder import (
    PIPELINE,
    publish,
    read_facts,
    refuse_existing,
    seal,
    staging,
    verify,
    write_manifest,
)
from madpipe.pipeline.scorer import Pipeline

FILES = [
    "config.yaml",
    "ensemble/calibration.npz",
    "ensemble/combiner.skops",
    "folds/0/decomposition/components.safetensors",
    "folds/0/decomposition/decomposition.json",
    "folds/0/decomposition/statistics.safetensors",
    f"folds/0/detectors/{next(iter(DEFAULT_MEMBERS))}.skops",
    "folds/0/extractors/reconstruction.safetensors",
    "folds/0/involvement.safetensors",
    "splits.npz",
    "target/model.py",
    "target/weights.safetensors",
]


@pytest.fixture
def copy(fitted, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted.pipeline, tmp_path / "pipeline"))


def refusal(folder: Path) -> str:
    with pytest.raises(DamagedFileError) as refused:
        Pipeline.load(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rewrite(folder: Path, **changes: object) -> None:
    """Change the manifest as someone would who can read it."""
    manifest = json.loads((folder / PIPELINE.manifest).read_text())
    (folder / PIPELINE.manifest).write_text(json.dumps(manifest | changes))


def reseal(folder: Path) -> None:
    """Make the manifest agree with whatever lies in the folder now."""
    seal(folder, read_facts(folder))


def test_the_manifest_names_every_other_file(fitted):
    there = {path.relative_to(fitted.pipeline).as_posix() for path in fitted.pipeline.rglob("*") if path.is_file()}
    named = json.loads((fitted.pipeline / PIPELINE.manifest).read_text())["files"]
    assert set(named) == there - {PIPELINE.manifest}
    assert set(FILES) < set(named)


@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_is_found_and_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{copy / name}: altered" in refusal(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(copy, name):
    (copy / name).unlink()
    assert f"{copy / name}: missing" in refusal(copy)


def test_a_truncated_file_is_found_and_named(copy):
    path = copy / "folds/0/decomposition/components.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: altered" in refusal(copy)


def test_trusted_rows_may_be_deleted(copy, own_rows):
    shutil.rmtree(copy / "trusted")
    assert Pipeline.load(copy).score(own_rows(2, 0)).p_value.shape == (2,)


def test_a_folder_without_a_manifest_is_no_pipeline(copy):
    (copy / PIPELINE.manifest).unlink()
    with pytest.raises(MissingFileError, match=r"is no pipeline folder: it has no pipeline.json"):
        verify(copy)


def test_a_manifest_that_is_no_json_is_refused(copy):
    (copy / PIPELINE.manifest).write_bytes((copy / PIPELINE.manifest).read_bytes()[:-10])
    assert f"{copy / PIPELINE.manifest}: not a readable JSON file" in refusal(copy)


def test_an_altered_fact_in_the_manifest_is_found(copy):
    rewrite(copy, input_shape=[7])
    assert f"{copy / PIPELINE.manifest}: altered" in refusal(copy)


@pytest.mark.parametrize("version", [0, 1, 2, "3", None])
def test_another_format_version_is_refused_with_the_one_that_is_read(copy, version):
    rewrite(copy, format=version)
    assert f"format {version}; this madpipe reads format {PIPELINE.format}" in refusal(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "target/../../outside"])
def test_a_manifest_cannot_name_a_file_outside_the_folder(copy, name):
    (copy.parent / "outside").write_text("x")
    files = json.loads((copy / PIPELINE.manifest).read_text())["files"]
    write_manifest(copy, read_facts(copy), files | {name: "0" * 64})
    assert "names a file outside the folder" in refusal(copy)


def test_a_link_that_leads_out_of_the_folder_is_refused(copy):
    outside = copy.parent / "model.py"
    (copy / "target/model.py").rename(outside)
    (copy / "target/model.py").symlink_to(outside)
    assert "names a file outside the folder (target/model.py)" in refusal(copy)


@pytest.mark.parametrize("name", ["target/json.py", "folds/0/extractors/delta.safetensors"])
def test_a_file_that_the_manifest_does_not_name_is_refused_where_files_are_read(copy, name):
    (copy / name).write_text("")
    assert f"{copy / name}: not in the manifest" in refusal(copy)


def test_bytecode_beside_the_factory_is_not_run(copy):
    source = copy / "target" / "model.py"
    honest, times = source.read_text(), source.stat()
    marker = copy.parent / "exploded"
    evil = f"open({str(marker)!r}, 'w').close()\n{honest}"
    source.write_text(evil)
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text(honest)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list((copy / "target" / "__pycache__").iterdir())
    Pipeline.load(copy)
    assert not marker.exists()


def test_scores_may_be_kept_beside_the_pipelines_own_files(copy):
    (copy / "scores.csv").write_text("")
    assert verify(copy)["format"] == PIPELINE.format


# Nothing is unpickled: the files are read by formats that hold no code, even where the digests agree.


def test_loading_and_scoring_call_no_unpickler(fitted, own_rows, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr("joblib.load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert Pipeline.load(fitted.pipeline).score(own_rows(2, 0)).p_value.shape == (2,)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_inside_the_calibration_scores_is_refused_unread(copy):
    bomb = np.array([Bomb(copy.parent / "exploded")], dtype=object)
    np.savez(copy / "ensemble/calibration.npz", **{"combined:0": bomb})
    reseal(copy)
    assert "calibration.npz" in refusal(copy)
    assert not (copy.parent / "exploded").exists()


def test_a_pickle_in_the_place_of_a_detector_is_refused_unread(copy):
    (copy / "ensemble/combiner.skops").write_bytes(pickle.dumps(Bomb(copy.parent / "exploded")))
    reseal(copy)
    assert "combiner.skops" in refusal(copy)
    assert not (copy.parent / "exploded").exists()


def test_a_pickle_in_the_place_of_weights_is_refused_unread(copy):
    (copy / "target/weights.safetensors").write_bytes(pickle.dumps(Bomb(copy.parent / "exploded")))
    reseal(copy)
    assert "weights.safetensors" in refusal(copy)
    assert not (copy.parent / "exploded").exists()


def test_a_yaml_tag_in_the_config_is_refused_unread(copy):
    (copy / "config.yaml").write_text(f"x: !!python/object/apply:pathlib.Path.touch ['{copy.parent / 'exploded'}']")
    reseal(copy)
    assert "config.yaml" in refusal(copy)
    assert not (copy.parent / "exploded").exists()


@pytest.mark.parametrize(
    "name",
    [
        "folds/0/decomposition/components.safetensors",
        "folds/0/decomposition/statistics.safetensors",
        "folds/0/involvement.safetensors",
        "ensemble/calibration.npz",
        "config.yaml",
        "folds/0/decomposition/decomposition.json",
    ],
)
def test_a_file_that_is_sealed_but_holds_nothing_is_named(copy, name):
    (copy / name).write_bytes(b"")
    reseal(copy)
    assert name in refusal(copy)


def test_files_of_another_pipeline_do_not_fit(copy):
    from safetensors.torch import save_file

    save_file({"V": torch.zeros(2)}, copy / "folds/0/decomposition/components.safetensors")
    reseal(copy)
    assert "does not fit the decomposition it belongs to" in refusal(copy)


# Whole or absent


def test_nothing_appears_under_the_name_until_it_is_published(tmp_path):
    output = tmp_path / "it"
    with staging(output) as staged:
        (staged / "file").write_text("new")
        assert not output.exists()
        publish(staged, output)
    assert [path.name for path in tmp_path.rglob("*")] == ["it", "file"]


def test_publishing_replaces_what_was_there(tmp_path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "old").touch()
    with staging(tmp_path / "it") as staged:
        (staged / "new").touch()
        publish(staged, tmp_path / "it")
    assert [path.name for path in tmp_path.rglob("*")] == ["it", "new"]


def test_staging_begins_empty_where_an_earlier_attempt_left_something(tmp_path):
    with staging(tmp_path / "it") as staged:
        (staged / "left").touch()
    with staging(tmp_path / "it") as staged:
        assert list(staged.iterdir()) == []


def test_an_existing_output_is_in_the_way_unless_it_may_be_overwritten(fitted):
    refuse_existing(fitted.folder / "not-there", overwrite=False)
    refuse_existing(fitted.pipeline, overwrite=True)
    with pytest.raises(MissingFileError, match="exists already; choose another -o, or give --overwrite"):
        refuse_existing(fitted.pipeline, overwrite=False)


def test_overwriting_leaves_alone_what_is_no_pipeline(fitted, tmp_path):
    refuse_existing(tmp_path, overwrite=True)  # an empty folder may be filled
    (tmp_path / "thesis.tex").touch()
    for precious in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(MissingFileError, match="is no pipeline folder, so --overwrite leaves it alone"):
            refuse_existing(precious, overwrite=True)
