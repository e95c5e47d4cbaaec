"""A pass that begins as an earlier one did takes its results over, and is the same pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from madpipe.components.masks import InputMask
from madpipe.components.model import ComponentModel, Forward


class Counted(TorchDispatchMode):
    """How often each operation is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count[name] = self.count.get(name, 0) + 1
        return func(*args, **kwargs or {})


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(torch.relu(self.fc(x)))))


def random_masks(model: ComponentModel, inputs: int) -> dict[str, InputMask]:
    S = model.instances
    sites = zip(model.sites, model.slots, strict=True)
    return {site.name: InputMask(torch.rand(S, inputs, K), torch.rand(S, inputs)) for site, K in sites}


def assert_same(one: Forward, other: Forward) -> None:
    assert torch.equal(one.output, other.output)
    assert list(one.site_inputs) == list(other.site_inputs)
    assert all(torch.equal(one.site_inputs[name], other.site_inputs[name]) for name in one.site_inputs)


def perceptron(inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(inplace), nn.Linear(6, 2, bias=False))


def test_passes_begun_as_the_clean_or_the_joint_one_are_the_same(case):
    model, x = case.model, case.repeated()
    masks = random_masks(model, len(case.x))
    clean = model.masked_forward(x, {}, record=True)
    joint = model.masked_forward(x, masks, begun=clean, record=True)
    assert_same(joint, model.masked_forward(x, masks))
    for name, mask in masks.items():
        for begun in (clean, joint):
            assert_same(model.masked_forward(x, {name: mask}, begun=begun), model.masked_forward(x, {name: mask}))


def test_what_came_before_the_first_masked_site_is_not_computed_again(random_model):
    model, x = random_model(perceptron(), 3, 1), torch.randn(5, 4)
    masks = random_masks(model, 5)
    clean = model.masked_forward(x, {}, record=True)
    with Counted() as computed:
        model.masked_forward(x, {"4": masks["4"]}, begun=clean)
    assert "tanh" not in computed.count
    assert "relu" not in computed.count
    with Counted() as computed:
        model.masked_forward(x, {"2": masks["2"]}, begun=clean)
    assert "tanh" not in computed.count
    assert computed.count["relu"] == 1


@pytest.mark.parametrize("changed", ["another input", "input in place", "result in place"])
def test_a_pass_of_something_else_is_computed_whole(random_model, changed: str):
    model, x = random_model(perceptron(inplace=changed == "result in place"), 3, 1), torch.randn(5, 4)
    masks = {"4": random_masks(model, 5)["4"]}
    clean = model.masked_forward(x, {}, record=True)
    if changed == "another input":
        x = torch.randn(5, 4)
    elif changed == "input in place":
        x.add_(1)
    with Counted() as computed:
        begun = model.masked_forward(x, masks, begun=clean)
    assert computed.count["tanh"] == 1
    assert_same(begun, model.masked_forward(x, masks))


def test_a_weight_that_is_used_twice_is_taken_over_at_both_uses_or_at_none(random_model):
    model, x = random_model(Twice(), 3, 1), torch.randn(5, 4)
    masks = random_masks(model, 5)
    clean = model.masked_forward(x, {}, record=True)
    known = {"fc": model.reading(0, x)}
    for own in (masks, {"fc": masks["fc"]}, {"head": masks["head"]}):
        torch.testing.assert_close(
            model.masked_forward(x, own, known, begun=clean).output, model.masked_forward(x, own).output
        )


def test_gradients_go_through_what_two_masked_passes_share(random_model):
    model, x = random_model(perceptron(), 3, 1), torch.randn(5, 4)
    model.V.requires_grad_(True)
    masks, found = random_masks(model, 5), []
    for shared in (True, False):
        joint = model.masked_forward(x, masks, record=shared)
        alone = model.masked_forward(x, {"0": masks["0"]}, begun=joint)
        loss = joint.output.square().sum() + alone.output.square().sum()
        found.append(torch.autograd.grad(loss, list(model.V)))
    torch.testing.assert_close(*found)


def test_what_a_clean_site_wrote_is_known_where_no_bias_was_added(random_model):
    model, x = random_model(perceptron(), 3, 1), torch.randn(5, 4)
    clean = model.masked_forward(x, {}, record=True)
    assert clean.recording is not None
    assert [clean.recording.written(i) is None for i in range(3)] == [True, True, False]
    torch.testing.assert_close(clean.recording.written(2), clean.site_inputs["4"][0] @ model.weight(2))


def test_what_a_clean_site_wrote_is_not_known_when_it_was_changed_since(random_model):
    model = random_model(nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU(inplace=True)), 3, 1)
    clean = model.masked_forward(torch.randn(5, 4), {}, record=True)
    assert clean.recording is not None
    assert clean.recording.written(0) is None


def test_a_pass_that_nobody_asked_to_record_keeps_nothing(case):
    assert case.model.masked_forward(case.repeated(), {}).recording is None
