"""A decomposition folder: whole and unaltered or refused, of its own target only, each seed as it was trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.components.sites import Site
from madpipe.errors import ConfigError, ContentError, DamagedFileError, MissingFileError
from madpipe.pipeline.decomposition_folder import DecompositionFolder
from madpipe.pipeline.folder import DECOMPOSITION, PIPELINE, refuse_existing, seal, verify
from madpipe.pipeline.source import Source, own_source
from madpipe.pipeline.stored_decomposition import load_decomposition

FILES = [
    "config.yaml",
    "target/model.py",
    "target/weights.safetensors",
    "components/components.safetensors",
    "components/statistics.safetensors",
    "components/decomposition.json",
    "splits.npz",
    "quality.json",
]


@pytest.fixture
def copy(decomposed, tmp_path) -> Path:
    return Path(shutil.copytree(decomposed.path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def source(decomposed) -> Source:
    section = {"factory": "my_model.py:build", "kwargs": {}, "weights": "weights.safetensors", "output": "categorical"}
    return own_source(section | {"sites": ("*",)}, {"trusted": "trusted.npz", "key": "x"}, decomposed.folder)


@pytest.fixture(scope="module")
def opened(decomposed) -> DecompositionFolder:
    return DecompositionFolder.open(decomposed.path, "it")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def refusal(folder: Path) -> str:
    with pytest.raises(DamagedFileError) as refused:
        DecompositionFolder.open(folder, "it")
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Whole and unaltered


def test_the_manifest_names_every_other_file(decomposed):
    there = {path.relative_to(decomposed.path).as_posix() for path in decomposed.path.rglob("*") if path.is_file()}
    named = set(json.loads((decomposed.path / DECOMPOSITION.manifest).read_text())["files"])
    assert named == there - {DECOMPOSITION.manifest}
    assert set(FILES) < named


@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_is_found_and_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert refusal(copy) == (
        f"{copy / name}: altered since the decomposition was written; decompose it again or restore the file."
    )


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(copy, name):
    (copy / name).unlink()
    assert f"{copy / name}: missing from the decomposition" in refusal(copy)


def test_an_altered_manifest_is_found(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"best_seed": 0 if manifest["best_seed"] else 1}))
    assert f"{copy / 'manifest.json'}: altered" in refusal(copy)


@pytest.mark.parametrize("name", ["components/more.safetensors", "target/json.py"])
def test_a_file_that_the_manifest_does_not_name_is_refused_where_files_are_read(copy, name):
    (copy / name).write_text("")
    assert f"{copy / name}: not in the manifest, so it was not part of the decomposition" in refusal(copy)


def test_figures_may_be_deleted(copy):
    shutil.rmtree(copy / "figures")
    assert DecompositionFolder.open(copy, "it").seeds == 3


def test_a_pipeline_is_no_decomposition_and_a_decomposition_no_pipeline(decomposed, tmp_path):
    seal(tmp_path, {})
    with pytest.raises(MissingFileError, match=r"is no decomposition folder: it has no manifest.json. .*decompose"):
        DecompositionFolder.open(tmp_path, "it")
    with pytest.raises(MissingFileError, match=r"is no pipeline folder: it has no pipeline.json. .*madpipe fit"):
        verify(decomposed.path)


def test_neither_is_overwritten_by_the_other(decomposed, tmp_path):
    seal(tmp_path, {})
    refuse_existing(decomposed.path, overwrite=True, kind=DECOMPOSITION)
    for folder, kind in ((decomposed.path, PIPELINE), (tmp_path, DECOMPOSITION)):
        with pytest.raises(MissingFileError, match=f"is no {kind.noun} folder, so --overwrite leaves it alone"):
            refuse_existing(folder, overwrite=True, kind=kind)


# Seeds


def test_each_seed_is_as_it_was_trained_bit_for_bit(decomposed, opened):
    whole = load_decomposition(decomposed.path / "components", network())
    variants = len(whole.variant_names)
    for seed in range(3):
        alone = opened.method(network(), seed)
        for i in range(2):
            own = slice(seed * variants, (seed + 1) * variants)
            assert torch.equal(alone.model.V[i], whole.model.V[i][own])
            assert torch.equal(alone.alive(i), whole.alive(i)[own])


def test_the_best_seed_is_taken_unless_another_is_asked_for(decomposed, opened):
    assert opened.seed(None) == json.loads((decomposed.path / "quality.json").read_text())["best_seed"]
    assert opened.seed(1) == 1


def test_a_seed_that_was_not_trained_is_refused(opened):
    with pytest.raises(ConfigError, match=r"^decomposition.select: it has the seeds 0 to 2, and no seed 3.$"):
        opened.seed(3)


def test_the_settings_are_those_of_the_config(opened):
    assert opened.settings.items() >= {"method": "spd", "seeds": 3, "steps": 40}.items()


# Its own target and rows


def test_it_fits_the_source_it_was_made_of(opened, source):
    opened.refuse_other(source)
    assert opened.trained_on(source)
    split = opened.split()
    assert split.row_count == len(source.trusted) == 300
    assert split.fit.dtype.kind == "i"


def test_one_other_row_makes_other_trusted_rows(opened, source):
    rows = np.array(source.trusted)
    rows[17, 3] += 1e-3
    assert not opened.trained_on(replace(source, trusted=rows))
    assert not opened.trained_on(replace(source, trusted=source.trusted[:-1]))


def test_other_weights_are_refused_with_both_digests(opened, source):
    other = replace(source, target=replace(source.target, weights_digest="f" * 64))
    with pytest.raises(ContentError, match=rf"^decomposition.from: it .*{source.target.weights_digest[:12]}.*f{{12}}"):
        opened.refuse_other(other)


def test_other_sites_are_refused_by_name(opened, source):
    with pytest.raises(ContentError, match="it has the sites 0, 2, and target.sites asks for 2; decompose again"):
        opened.refuse_other(replace(source, sites=source.sites[1:]))
    reshaped = Site(name="0", kind="linear", d_in=7, d_out=12)
    with pytest.raises(ContentError, match="has the sites"):
        opened.refuse_other(replace(source, sites=(reshaped, source.sites[1])))


def test_another_kind_of_output_is_refused(opened, source):
    other = replace(source, target=replace(source.target, output="regression"))
    with pytest.raises(ContentError, match="is for categorical outputs, and target.output is regression"):
        opened.refuse_other(other)


def test_a_document_that_is_sealed_but_holds_nothing_is_named(copy, source):
    (copy / "components" / "decomposition.json").write_text("{}")
    seal(copy, json.loads((copy / "manifest.json").read_text()), DECOMPOSITION)
    with pytest.raises(DamagedFileError, match=r"decomposition.json: KeyError"):
        DecompositionFolder.open(copy, "it").method(source.target.module, 0)
