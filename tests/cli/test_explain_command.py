"""`madpipe explain` on a real pipeline: words, JSON and figures."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def inputs(fitted):
    return fitted.folder / "test.npz"  # the last 50 of 150 rows are anomalous


def test_flagged_inputs_are_explained_in_words_the_most_anomalous_first(madpipe, fitted, inputs):
    ended = madpipe("explain", "--pipeline", fitted.pipeline, inputs, "--alpha", "0.05")
    assert ended.code == 0, ended.err
    blocks = ended.out.strip().split("\n\n")
    assert len(blocks) == 5
    assert all(int(block.split()[1].rstrip(":")) >= 100 for block in blocks)
    bits = [float(block.splitlines()[0].split()[2]) for block in blocks]
    assert bits == sorted(bits, reverse=True)
    for words in ("the network says", "its trusted parts alone say", "surprise by part: delta@", "cause: delta@"):
        assert all(words in block for block in blocks)
    assert all("read most, by feature: 5 (" in block for block in blocks)
    assert "Next: madpipe edit --pipeline" in ended.err


def test_rows_are_explained_in_the_order_asked_for_as_one_json_document(madpipe, fitted, inputs):
    ended = madpipe("explain", "--pipeline", fitted.pipeline, inputs, "--index", "140,3", "--json")
    document = json.loads(ended.out)
    assert [one["input_id"] for one in document["explanations"]] == ["140", "3"]
    assert document["explanations"][0]["parts"][0]["name"].startswith("delta@")


def test_an_ordinary_input_is_called_that(madpipe, fitted, inputs):
    scored = json.loads(madpipe("explain", "--pipeline", fitted.pipeline, inputs, "--index", "0,1,2", "--json").out)
    usual = next(one for one in scored["explanations"] if one["p_value"] > 0.05)
    out = madpipe("explain", "--pipeline", fitted.pipeline, inputs, "--index", usual["input_id"]).out
    assert "usual for trusted inputs" in out.splitlines()[0]


def test_figures_and_a_document_are_written_whole_and_never_over_others(madpipe, fitted, inputs, tmp_path):
    line = (
        "explain",
        "--pipeline",
        fitted.pipeline,
        inputs,
        "--index",
        "120,121",
        "--image",
        "2x3",
        "-o",
        tmp_path / "it",
    )
    assert madpipe(*line).code == 0
    names = ["explanations.json", "input-120.png", "input-121.png"]
    assert sorted(path.name for path in (tmp_path / "it").iterdir()) == names
    assert len(json.loads((tmp_path / "it" / "explanations.json").read_text())["explanations"]) == 2
    assert not (tmp_path / "it.partial").exists()
    again = madpipe(*line)
    assert (again.code, "exists already" in again.err) == (2, True)
    assert madpipe(*line, "--overwrite").code == 0


def test_trusted_rows_of_ones_own_stand_in(madpipe, fitted, inputs, own_rows, tmp_path):
    np.savez(tmp_path / "own.npz", x=own_rows(40, 9))
    line = ("explain", "--pipeline", fitted.pipeline, inputs, "--index", "120", "--trusted", tmp_path / "own.npz")
    document = json.loads(madpipe(*line, "--json").out)
    assert all(one["row"] < 40 for one in document["explanations"][0]["nearest_trusted"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--index", "150"], 2, "--index 150: .*test.npz has 150 rows"),
        (["--index", "1,b"], 2, "'1,b' is no list of row numbers"),
        (["--index", "1", "--image", "3x3"], 4, "--image 3x3: inputs have shape"),
        (["--index", "1", "--image", "6"], 2, "'6' is no height and width"),
        (["--index", "1", "--trusted", "nowhere.npz"], 2, "no file nowhere.npz"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_line(madpipe, fitted, inputs, options, code, said):
    import re

    ended = madpipe("explain", "--pipeline", fitted.pipeline, inputs, *options)
    assert (ended.code, ended.out) == (code, "")
    assert re.search(said, ended.err)
    assert len(ended.err.strip().splitlines()) == 1
