"""What is reported of each seed: figures under their reported names, recovery only where mechanisms are known."""

import json

import pytest
import torch

from madpipe.decomposition.assessment import assess, comparable
from madpipe.decomposition.quality import quality_by_seed
from madpipe.decomposition.recovery import recovery

MECHANISMS = {
    "features": 5,
    "parts": [{"name": f"fc1.feature{i}", "site": "fc1", "side": "read", "feature": i} for i in range(5)],
    "blocks": [{"site": "head", "rank": 3}],
}


@pytest.fixture
def method(start, small_mlp, rows):
    """Two seeds and two variants; at fc1 the second seed is exactly one slot a feature."""
    made = start("spd", small_mlp, rows, components=6, instances=4, seeds=2).eval().requires_grad_(False)
    made.model.V[0][2:] = torch.eye(5, 6)
    made.model.U[0][2:].zero_()[:, :5] = made.model.weight(0)
    return made


@pytest.fixture
def seeds(method, rows):
    return assess(method, rows.split(16), MECHANISMS)


def test_a_document_has_the_promised_keys(seeds):
    promised = {"seed", "mmcs", "ml2r", "mmcs_alive", "ml2r_alive", "matched", "mechanisms", "l0", "alive"}
    promised |= {"faithfulness", "reconstruction", "mmcs_column", "ml2r_column", "broken", "variants"}
    for k, seed in enumerate(seeds):
        document = seed.document()
        assert promised <= document.keys()
        assert document["seed"] == k
        json.dumps(document, allow_nan=False)


def test_what_is_recovered_stands_under_the_names_that_recovery_gives(method, seeds):
    figures = recovery(method, MECHANISMS)[0].figures()
    document = seeds[0].document()
    for figure in ("mmcs", "ml2r", "mmcs_column", "ml2r_column"):
        assert document[figure] == figures[figure]


def test_a_seed_that_holds_a_feature_in_each_slot_matches_all(seeds):
    at_fc1 = seeds[1].document()["sites"]["fc1"]
    assert (at_fc1["matched"], at_fc1["mechanisms"]) == (5, 5)
    assert at_fc1["mmcs_alive"] == pytest.approx(1.0)
    assert seeds[0].document()["sites"]["fc1"]["matched"] < 5


def test_a_block_is_told_under_its_site_by_its_parts(method, seeds):
    found = recovery(method, MECHANISMS)[0].blocks["head"].parts
    assert seeds[0].document()["sites"]["head"] == {"block_parts": found}


def test_counts_are_whole_numbers_and_broken_is_a_truth_value(seeds):
    document = seeds[0].document()
    assert all(type(document[name]) is int for name in ("alive", "matched", "mechanisms", "spare"))
    assert document["broken"] is True


def test_the_first_variant_stands_on_top_and_each_has_its_own(method, rows, seeds):
    figures = quality_by_seed(method, rows.split(16))[1]
    document = seeds[1].document()
    assert list(document["variants"]) == ["output", "hidden"]
    for variant, own in document["variants"].items():
        assert own["reconstruction"] == figures[f"reconstruction_importance/{variant}"]
        assert own["l0"] == figures[f"l0/{variant}"]
    assert document.items() >= document["variants"]["output"].items()


def test_a_single_variant_has_no_list_of_variants(start, small_mlp, rows):
    assert "variants" not in assess(start("apd", small_mlp, rows), [rows], None)[0].document()


@pytest.mark.parametrize("mechanisms", [None, [{"bits": [1, 2], "value": 1}], {"trigger": [3]}])
def test_nothing_is_said_of_recovery_where_mechanisms_cannot_be_compared(method, rows, mechanisms):
    assert not comparable(mechanisms, method)
    document = assess(method, [rows], mechanisms)[0].document()
    assert not {"mmcs", "matched", "broken", "sites"} & document.keys()
    assert document["l0"] > 0
