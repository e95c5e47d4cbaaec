"""Taking mechanisms out: nothing removed is nothing changed, and what goes is what was named."""

import pytest
import torch
from torch import nn

from madpipe.editing.removal import edited_module, removal_shown_by, whole_removal
from madpipe.pipeline.stored_target import load_written_target


@pytest.fixture(scope="module")
def target(loaded, fitted) -> nn.Module:
    return load_written_target(fitted.pipeline / "target", loaded.facts["target"]).module


def test_nothing_removed_is_nothing_changed(target, explainer):
    """Law 8."""
    edited = edited_module(target, whole_removal(explainer.of_outputs, []).removed)
    for name, value in target.state_dict().items():
        assert torch.equal(edited.state_dict()[name], value), name


def test_only_the_sites_named_change_and_the_target_never_does(target, explainer):
    before = {name: value.clone() for name, value in target.state_dict().items()}
    edited = edited_module(target, whole_removal(explainer.of_outputs, ["delta@2"]).removed).state_dict()
    assert [name for name, value in before.items() if not torch.equal(edited[name], value)] == ["2.weight"]
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())


def test_the_edited_module_says_what_the_ablated_network_does(target, explainer, anomalous):
    parts = explainer.of_outputs
    edited = edited_module(target, whole_removal(parts, parts.delta_names).removed)
    ablated = parts.outputs_without(torch.from_numpy(anomalous).double(), [parts.delta_names])[0]
    torch.testing.assert_close(edited(torch.from_numpy(anomalous)).double(), ablated, atol=1e-4, rtol=1e-4)


def test_what_ten_inputs_show_is_taken_out_at_less_cost_than_a_whole_delta(explainer, anomalous):
    parts, half = explainer.of_outputs, len(anomalous) // 2
    removal = removal_shown_by(explainer, anomalous[:half])
    assert half >= 10
    assert removal.share is not None
    cost = explainer.trusted.left_by(parts, removal.removed).divergence
    assert cost < explainer.trusted.left_by(parts, parts.added_by(removal.names)).divergence
    held_out = torch.from_numpy(anomalous[half:]).double()
    before = parts.model.clean_forward(held_out).output[0].argmax(1)
    after = parts.forward_without(held_out, [removal.removed]).output[0].argmax(1)
    assert float((before != after).double().mean()) >= 0.8


def test_few_inputs_take_out_whole_deltas(explainer, anomalous):
    removal = removal_shown_by(explainer, anomalous[:3])
    assert removal.share is None
    assert set(removal.names) <= set(explainer.of_outputs.delta_names)


def test_a_convolution_and_a_shared_weight_are_edited_where_they_lie():
    module = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
    )
    module[3].weight = module[2].weight
    removed = {"0": torch.arange(24.0).view(8, 3), "2": torch.eye(12)}
    edited = edited_module(module, removed)
    torch.testing.assert_close(module[0].weight - edited[0].weight, removed["0"].t().reshape(3, 2, 2, 2))
    assert edited[3].weight is edited[2].weight
    torch.testing.assert_close(module[2].weight - edited[3].weight, torch.eye(12))
