"""Tensors and values on disk come back as they were, or are refused."""

import pytest
import torch
from torch import nn

from madpipe.components.checkpoint import load_json, load_matching, load_tensors, save_json, save_tensors
from madpipe.errors import DamagedFileError


def test_tensors_come_back_bit_for_bit_with_their_types(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.tensor([True, False]), "d": torch.tensor(2.0)}
    save_tensors(tensors, tmp_path / "t.safetensors")
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[k], tensors[k]) and loaded[k].dtype == tensors[k].dtype for k in tensors)


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path):
    base = torch.randn(4, 6)
    save_tensors({"whole": base, "same": base, "turned": base.t()}, tmp_path / "t.safetensors")
    assert torch.equal(load_tensors(tmp_path / "t.safetensors")["turned"], base.t())


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedFileError, match="t.safetensors: not a whole safetensors file"):
        load_tensors(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DamagedFileError, match="not a whole safetensors file"):
        load_tensors(tmp_path / "none.safetensors")


def test_a_pickle_is_not_read(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "t.safetensors")
    with pytest.raises(DamagedFileError):
        load_tensors(tmp_path / "t.safetensors")


def test_loading_into_a_module_leaves_what_is_not_in_the_file(tmp_path):
    saved, fresh = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    own = fresh[0].weight.detach().clone()
    save_tensors({k: v for k, v in saved.state_dict().items() if not k.startswith("0.")}, tmp_path / "t.safetensors")
    load_matching(fresh, tmp_path / "t.safetensors", ignore="0.")
    assert torch.equal(fresh[1].weight, saved[1].weight)
    assert torch.equal(fresh[0].weight, own)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ({"weight": torch.zeros(3, 2)}, "bias"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "extra": torch.zeros(1)}, "extra"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "weight"),
    ],
    ids=["missing", "unexpected", "misshaped"],
)
def test_an_entry_that_does_not_fit_is_named(tensors, named: str, tmp_path):
    save_tensors(tensors, tmp_path / "t.safetensors")
    with pytest.raises(DamagedFileError, match=f"'{named}' does not fit"):
        load_matching(nn.Linear(2, 3), tmp_path / "t.safetensors", ignore="model.")


def test_a_json_object_comes_back(tmp_path):
    value = {"b": [1, 2.5], "a": {"c": None}}
    save_json(value, tmp_path / "v.json")
    assert load_json(tmp_path / "v.json") == value


def test_the_same_value_gives_the_same_bytes_whatever_its_order(tmp_path):
    save_json({"a": 1, "b": 2}, tmp_path / "1.json")
    save_json({"b": 2, "a": 1}, tmp_path / "2.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


@pytest.mark.parametrize("text", ["{", "[1, 2]", "", "\xff"])
def test_what_is_no_json_object_is_refused(text: str, tmp_path):
    (tmp_path / "v.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFileError, match="v.json"):
        load_json(tmp_path / "v.json")
