"""`madpipe edit` on a real pipeline: plain weights that the user's own factory loads."""

import json
import re
import runpy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def edit(madpipe, fitted, tmp_path):
    def run(*options):
        return madpipe("edit", "--pipeline", fitted.pipeline, *options, "-o", tmp_path / "edited.safetensors")

    return run


def outputs(fitted, weights, x):
    """What the user's own factory says with these weights, without madpipe."""
    module = runpy.run_path(str(fitted.folder / "my_model.py"))["build"]()
    module.load_state_dict(load_file(weights))
    with torch.no_grad():
        return module(torch.from_numpy(x))


def test_nothing_removed_is_the_target_bit_for_bit(edit, fitted, tmp_path):
    """Law 8."""
    assert edit("--remove", "").code == 0
    edited, own = (load_file(path) for path in (tmp_path / "edited.safetensors", fitted.folder / "weights.safetensors"))
    assert edited.keys() == own.keys()
    assert all(torch.equal(edited[name], own[name]) for name in own)


def test_a_removed_part_changes_what_the_users_own_model_says(edit, fitted, tmp_path):
    test = np.load(fitted.folder / "test.npz")["x"]
    ended = edit("--remove", "delta@0", "--check", fitted.folder / "test.npz", "--json")
    document = json.loads(ended.out)
    before, after = (
        outputs(fitted, path, test) for path in (fitted.folder / "weights.safetensors", tmp_path / "edited.safetensors")
    )
    assert document["removed"] == ["delta@0"]
    assert document["checked"]["changed"] == int((before.argmax(1) != after.argmax(1)).sum()) > 0
    assert document["trusted"]["rows"] == 99
    assert document["trusted"]["divergence"] < 0.1 * document["checked"]["divergence"]
    kept = json.loads((tmp_path / "edited.json").read_text())
    assert kept == {name: value for name, value in document.items() if name != "output"}


def test_inputs_show_what_to_remove(edit, fitted):
    ended = edit(
        "--remove-named-by", fitted.folder / "test.npz", "--alpha", "0.05", "--check", fitted.folder / "test.npz"
    )
    assert ended.code == 0, ended.err
    removed, trusted, checked = ended.out.splitlines()
    assert removed.startswith("removed: delta@")
    changed = [int(re.search(r"([\d,]+) of", line)[1]) for line in (trusted, checked)]
    assert changed[0] <= 9  # of 99
    assert changed[1] >= 10  # of 50 anomalous ones


def test_files_that_are_there_stay_unless_told_otherwise(edit, tmp_path):
    assert edit("--remove", "delta@0").code == 0
    before = (tmp_path / "edited.safetensors").read_bytes()
    ended = edit("--remove", "delta@2")
    assert (ended.code, "exists already" in ended.err) == (2, True)
    assert (tmp_path / "edited.safetensors").read_bytes() == before
    assert edit("--remove", "delta@2", "--overwrite").code == 0
    assert (tmp_path / "edited.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edited.json", "edited.safetensors"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--remove", "delta@1"], "no part named 'delta@1'. Did you mean 'delta@"),
        (["--remove", "delta@0,0.9999"], "no part named '0.9999'"),
        ([], "give either --remove or --remove-named-by"),
        (["--remove", "delta@0", "--remove-named-by", "x.npz"], "give either --remove or --remove-named-by"),
        (["--remove", "delta@0", "--index", "1"], "--index numbers rows of --remove-named-by"),
        (["--remove-named-by", "nowhere.npz"], "no file nowhere.npz"),
    ],
)
def test_what_cannot_be_edited_is_refused_and_nothing_is_written(edit, tmp_path, options, said):
    ended = edit(*options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert not list(tmp_path.iterdir())


def test_weights_are_safetensors(madpipe, fitted, tmp_path):
    ended = madpipe("edit", "--pipeline", fitted.pipeline, "--remove", "", "-o", tmp_path / "edited.pt")
    assert (ended.code, "must end in .safetensors" in ended.err) == (2, True)
