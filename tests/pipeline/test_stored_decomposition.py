"""A decomposition on disk is the one in memory, bit for bit, and fits its own target only."""

import json
import shutil

import pytest
import torch
from torch import nn

from madpipe.components.checkpoint import load_json, load_tensors
from madpipe.errors import DamagedFileError, UnknownNameError
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.stored_decomposition import load_decomposition, save_decomposition


@pytest.fixture(scope="module")
def stored(fitted):
    return fitted.pipeline / "folds" / "0" / "decomposition"


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def test_what_is_read_is_what_was_written_bit_for_bit(stored, tmp_path):
    method = load_decomposition(stored, network())
    save_decomposition(method, tmp_path / "again", load_json(stored / "decomposition.json")["quality"])
    assert (tmp_path / "again" / "decomposition.json").read_bytes() == (stored / "decomposition.json").read_bytes()
    for name in ("components.safetensors", "statistics.safetensors"):
        before, after = load_tensors(stored / name), load_tensors(tmp_path / "again" / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(after[key].to(value), value) for key, value in before.items())


def test_the_targets_own_weights_are_not_stored_a_second_time(stored):
    from safetensors import safe_open

    with safe_open(stored / "components.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith("model.target.")]  # noqa: SIM118 - no mapping


def test_all_slots_and_the_delta_make_up_the_weight(fitted):
    method = Pipeline.load(fitted.pipeline).method
    for i in range(len(method.model.sites)):
        whole = method.model.component_sum(i) + method.model.delta(i)
        assert torch.allclose(whole, method.model.weight(i).expand_as(whole), atol=1e-12)


def test_sites_and_quality_can_be_read_without_madpipe(stored):
    document = json.loads((stored / "decomposition.json").read_text())
    assert [site["name"] for site in document["sites"]] == ["0", "2"]
    assert document["method"] == "spd"
    assert document["config"]["steps"] == 60
    assert all(isinstance(value, float) for value in document["quality"].values())
    assert document["quality"]


@pytest.mark.parametrize("key", ["sites", "config", "instances", "output", "hidden_variances"])
def test_a_document_without_one_of_its_entries_is_refused(stored, tmp_path, key):
    copy = shutil.copytree(stored, tmp_path / "copy")
    document = load_json(copy / "decomposition.json")
    del document[key]
    (copy / "decomposition.json").write_text(json.dumps(document))
    with pytest.raises(DamagedFileError, match=f"decomposition.json: KeyError: '{key}'"):
        load_decomposition(copy, network())


def test_a_method_that_is_not_installed_is_named(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy")
    document = load_json(copy / "decomposition.json") | {"method": "spq"}
    (copy / "decomposition.json").write_text(json.dumps(document))
    with pytest.raises(UnknownNameError, match="no method named 'spq'. Did you mean 'spd'"):
        load_decomposition(copy, network())


def test_clusters_that_are_not_of_its_slots_are_refused(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy")
    document = load_json(copy / "decomposition.json")
    document["clusters"][0]["0"].append(0)
    (copy / "decomposition.json").write_text(json.dumps(document))
    with pytest.raises(DamagedFileError, match="ValueError: the clusters are not of its slots"):
        load_decomposition(copy, network())


def test_a_document_older_than_clustering_is_read_and_has_no_components(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy")
    document = load_json(copy / "decomposition.json")
    del document["clusters"]
    (copy / "decomposition.json").write_text(json.dumps(document))
    assert not load_decomposition(copy, network()).has_components
    assert load_decomposition(stored, network()).has_components
