"""Pipeline and decomposition folders that were re-sealed by a stranger: refused with 4 where their parts do not fit."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from madpipe.errors import DamagedFileError
from madpipe.pipeline.decomposition_folder import DecompositionFolder
from madpipe.pipeline.folder import PIPELINE, digest, read_facts, seal, verify, write_manifest
from madpipe.pipeline.scorer import Pipeline

FACTORY = "import pathlib\n\ndef build(**kwargs):\n    pathlib.Path({!r}).touch()\n"


@pytest.fixture
def copy(fitted, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted.pipeline, tmp_path / "pipeline"))


def resealed(folder: Path, **changes: object) -> Path:
    seal(folder, read_facts(folder) | changes)
    return folder


@pytest.mark.parametrize("place", ["../outside.py", "../../outside.py", "{}/outside.py", "target/../../outside.py"])
def test_a_factory_outside_the_folder_is_not_run(place, copy, canary, refusal):
    (copy.parent / "outside.py").write_text(FACTORY.format(str(canary)))
    target = read_facts(copy)["target"] | {"factory": f"{place.format(copy.parent)}:build"}
    assert "no file of its own" in refusal(4, lambda: Pipeline.load(resealed(copy, target=target)))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a\x00b", "a" * 5000, "trusted/../../outside", "C:\\x/.."]
)
def test_a_manifest_names_files_of_its_own_alone(name, copy, refusal):
    (copy.parent / "outside").write_text("x")
    files = json.loads((copy / PIPELINE.manifest).read_text())["files"]
    write_manifest(copy, read_facts(copy), files | {name: "0" * 64})
    refusal(4, lambda: verify(copy))


@pytest.mark.parametrize("name", ["target/model.py", "folds/0/extractors", "ensemble"])
def test_links_are_refused(name, copy, refusal):
    moved = copy.parent / "moved"
    (copy / name).rename(moved)
    (copy / name).symlink_to(moved)
    refusal(4, lambda: verify(copy))
    refusal(4, lambda: Pipeline.load(resealed(copy)))


def test_a_link_to_itself_is_refused(copy, refusal):
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").symlink_to("config.yaml")
    refusal(4, lambda: verify(copy))


def test_a_linked_folder_beside_those_that_the_manifest_names_is_refused(copy, refusal):
    elsewhere = copy.parent / "elsewhere"
    elsewhere.mkdir()
    (copy / "folds" / "0" / "more").symlink_to(elsewhere)
    assert "a link" in refusal(4, lambda: verify(copy))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, '{"files": []}', '{"format": 3, "files": {"x": 1}}', "\ufeff{}"],
)
def test_a_manifest_that_is_none_is_refused(text, copy, refusal):
    (copy / PIPELINE.manifest).write_text(text, encoding="utf-8")
    refusal(4, lambda: verify(copy))


@pytest.mark.parametrize(
    "changes",
    [
        {"folds": "four"},
        {"input_shape": None},
        {"target": {}},
        {"crossed": "yes", "folds": 0},
    ],
    ids=str,
)
def test_facts_that_fit_nothing_are_refused(changes, copy, refusal):
    refusal(4, lambda: Pipeline.load(resealed(copy, **changes)))


@pytest.mark.parametrize("name", ["../../../stolen", "/etc/x"])
def test_a_member_whose_name_leads_out_of_the_folder_is_not_read(name, copy, refusal):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (member,) = list(config["detectors"]["members"].values())[:1]
    config["detectors"]["members"] = {name: member}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert "leads out of the folder" in refusal(4, lambda: Pipeline.load(resealed(copy)))


def test_a_config_that_grows_without_bounds_is_refused(copy, refusal):
    lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (copy / "config.yaml").write_text("\n".join(lines))
    assert "config.yaml" in refusal(4, lambda: Pipeline.load(resealed(copy)))


def test_trusted_rows_that_the_manifest_does_not_name_are_refused(copy, refusal):
    files = json.loads((copy / PIPELINE.manifest).read_text())["files"]
    write_manifest(copy, read_facts(copy), {name: value for name, value in files.items() if "trusted" not in name})
    assert "not in the manifest" in refusal(4, lambda: verify(copy))


def test_a_decomposition_folder_is_opened_without_running_its_code(decomposed, tmp_path, canary):
    folder = Path(shutil.copytree(decomposed.path, tmp_path / "it"))
    (folder / "target" / "model.py").write_text(FACTORY.format(str(canary)))
    with pytest.raises(DamagedFileError, match="altered"):
        DecompositionFolder.open(folder, "it")
    manifest = json.loads((folder / "manifest.json").read_text())
    files = manifest["files"] | {"target/model.py": digest(folder / "target" / "model.py")}
    from madpipe.pipeline.folder import DECOMPOSITION

    write_manifest(folder, read_facts(folder, DECOMPOSITION), files, DECOMPOSITION)
    assert DecompositionFolder.open(folder, "it").seeds == 3
    assert not canary.exists()
