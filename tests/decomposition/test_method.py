"""What all methods share: masks of alive slots, and alive sets from trusted data."""

import pytest
import torch
from pydantic import ValidationError

from madpipe.decomposition.method import MethodConfig


@pytest.fixture
def method(start, small_mlp, rows):
    """With the even slots alive."""
    made = start("spd", small_mlp, rows).eval().requires_grad_(False)
    for i in range(2):
        made.alive(i)[:, 1::2] = False
    return made


def output(method, rows, masks) -> torch.Tensor:
    return method.model.masked_forward(rows.repeat(2, 1), masks).output


def test_alive_masks_are_one_on_alive_slots_and_zero_on_dead_ones(method):
    assert method.alive_masks()["fc1"].slots[0].tolist() == [1, 0, 1, 0, 1, 0]
    assert method.alive_masks()["fc1"].delta == 0.0


def test_alive_weights_are_the_alive_masks_rebuilt_once(method, rows):
    assert torch.equal(output(method, rows, method.alive_weights()), output(method, rows, method.alive_masks()))


def test_dead_slots_do_not_matter_to_the_alive_pass(method, rows):
    before = output(method, rows, method.alive_masks())
    for V in method.model.V:
        V[:, :, 1::2] = torch.randn_like(V[:, :, 1::2])
    torch.testing.assert_close(output(method, rows, method.alive_masks()), before)


def test_all_slots_with_the_delta_are_the_clean_pass(method, rows):
    masks = {name: type(mask)(mask.slots, 1.0) for name, mask in method.all_slots_masks().items()}
    clean = method.model.clean_forward(rows).output
    torch.testing.assert_close(output(method, rows, masks), clean.expand(2, *clean.shape[1:]))


def test_alive_sets_do_not_depend_on_chunks(method, rows):
    method.settle(rows.split(7))
    first = [method.alive(i).clone() for i in range(2)]
    method.settle([rows])
    assert all(torch.equal(method.alive(i), first[i]) for i in range(2))


def test_alive_sets_survive_a_change_of_precision(method):
    assert method.double().alive(0).dtype == torch.bool


def test_hidden_sites_come_in_the_order_of_the_sites(start, small_cnn, images):
    method = start("spd", small_cnn, images)
    kept = dict(reversed(list(method.statistics.hidden_variances.items())))
    method.statistics = type(method.statistics)(
        method.statistics.input_std, kept, method.statistics.spans, method.statistics.metric
    )
    assert method.hidden_sites() == ["conv2", "fc1", "head"]


def test_a_config_is_frozen_and_refuses_unknown_keys():
    with pytest.raises(ValidationError, match="stepz"):
        MethodConfig(stepz=3)
    with pytest.raises(ValidationError, match="frozen"):
        MethodConfig().steps = 4
