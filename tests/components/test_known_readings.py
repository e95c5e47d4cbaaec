"""What a site reads may be known before a pass: the pass is the same, and inner activations are not made again."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.masks import InputMask
from madpipe.components.model import ComponentModel


def random_mask(model: ComponentModel, index: int, inputs: int) -> InputMask:
    S, K = model.instances, model.slots[index]
    return InputMask(torch.rand(S, inputs, K), torch.rand(S, inputs))


def test_a_pass_with_one_site_masked_is_the_same_with_its_reading_known(case):
    model, x = case.model, case.repeated()
    clean = model.masked_forward(x, {})
    for i, site in enumerate(model.sites):
        masks = {site.name: random_mask(model, i, len(case.x))}
        known = {site.name: model.reading(i, clean.site_inputs[site.name].flatten(0, 1))}
        with_it, without = model.masked_forward(x, masks, known), model.masked_forward(x, masks)
        assert torch.equal(with_it.output, without.output)
        assert all(torch.equal(with_it.site_inputs[name], without.site_inputs[name]) for name in clean.site_inputs)


def test_a_reading_makes_its_inner_activations_and_what_is_written_once(case):
    clean = case.model.masked_forward(case.repeated(), {})
    reading = case.model.reading(0, clean.site_inputs[case.model.sites[0].name].flatten(0, 1))
    assert reading.inner is reading.inner
    assert reading.written is reading.written


def test_a_weight_that_is_used_twice_reads_anew_at_its_second_use(random_model):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.fc(x)))

    model, x = random_model(Twice(), 3, 2), torch.randn(10, 4)
    masks = {"fc": random_mask(model, 0, 5)}
    known = {"fc": model.reading(0, x)}
    torch.testing.assert_close(model.masked_forward(x, masks, known).output, model.masked_forward(x, masks).output)
    assert set(known) == {"fc"}


@pytest.mark.parametrize("known", [True, False])
def test_gradients_reach_the_slots_through_a_known_reading(random_model, known: bool):
    model = random_model(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), 3, 1)
    model.V.requires_grad_(True)
    x, mask = torch.randn(5, 4), random_mask(model, 0, 5)
    reading = {"0": model.reading(0, x)} if known else {}
    model.masked_forward(x, {"0": mask}, reading).output.square().sum().backward()
    hidden = x @ model.weight(0) * mask.delta[0, :, None] + model.target[0].bias
    V = model.V[0][0].detach().requires_grad_()
    hidden = hidden + (x @ V * (mask.slots - mask.delta[..., None])[0]) @ model.U[0][0]
    model.target[2](torch.relu(hidden)).square().sum().backward()
    torch.testing.assert_close(model.V[0].grad[0], V.grad)
