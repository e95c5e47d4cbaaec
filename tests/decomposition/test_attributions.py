"""Closed-form attributions against brute force: the derivative of the target along each direction V_k U_k."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition import attributions
from madpipe.decomposition.attributions import slot_attributions
from madpipe.decomposition.component_attributions import Attribution, component_attributions

RANK = 2


def with_random_slots(target: nn.Module, instances: int = 2, slots: int = 3 * RANK) -> ComponentModel:
    """In float64, so that differences can stand for derivatives."""
    sites = find_sites(target)
    model = ComponentModel(target, sites, [slots] * len(sites), instances).double()
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    return model.requires_grad_(False)


def positional() -> nn.Module:
    """A linear map at every position, then a mean over positions."""

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mix(x)).mean(1))

    return Positional()


def tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv2d(3, 2, 2, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))


@pytest.fixture(
    params=[(plain, (4,)), (positional, (5, 4)), (tied, (4,)), (convolutional, (1, 4, 4))], ids=lambda p: p[0].__name__
)
def case(request) -> tuple[ComponentModel, Tensor]:
    build, shape = request.param
    return with_random_slots(build()), torch.randn(3, *shape, dtype=torch.float64)


def derivative(model: ComponentModel, x: Tensor, directions: dict[str, Tensor]) -> Tensor:
    """d target(x) / dt at W + t * direction, by central differences: [B, O]. Directions are matrices [I, O]."""

    def at(t: float) -> Tensor:
        moved = copy.deepcopy(model.target)
        for name, direction in directions.items():
            weight = moved.get_submodule(name).weight
            weight += t * direction.t().reshape(weight.shape)
        return moved(x).flatten(1)

    return (at(1e-4) - at(-1e-4)) / 2e-4  # the error is of the order of 1e-8, and of rounding 1e-12


def outer(model: ComponentModel, s: int, index: int, k: int) -> Tensor:
    return model.V[index][s, :, k, None] * model.U[index][s, k, None, :]


def test_a_slots_attribution_is_the_derivative_along_its_direction(case):
    model, x = case
    found = slot_attributions(model, x)
    for i, site in enumerate(model.sites):
        for s in range(model.instances):
            for k in range(model.slots[i]):
                wanted = derivative(model, x, {site.name: outer(model, s, i, k)}).square().mean(1).sqrt()
                torch.testing.assert_close(found[site.name][s, :, k], wanted, rtol=1e-5, atol=1e-7)


def test_a_components_attribution_is_the_derivative_along_all_its_slots_at_once(case):
    model, x = case
    found = component_attributions(model, x, RANK)
    for s in range(model.instances):
        for c in range(3):
            directions = {
                site.name: sum(outer(model, s, i, k) for k in range(RANK * c, RANK * c + RANK))
                for i, site in enumerate(model.sites)
            }
            wanted = derivative(model, x, directions).square().mean(1).sqrt()
            torch.testing.assert_close(found[s, :, c], wanted, rtol=1e-5, atol=1e-7)


def test_slots_of_one_component_that_cancel_attribute_nothing():
    model, x = with_random_slots(plain()), torch.randn(3, 4, dtype=torch.float64)
    for V, U in zip(model.V, model.U, strict=True):
        V[:, :, 1::2], U[:, 1::2] = V[:, :, ::2], -U[:, ::2]
    assert component_attributions(model, x, RANK).abs().max() < 1e-12
    assert min(float(value.min()) for value in slot_attributions(model, x).values()) > 1e-6


def test_attributions_are_taken_at_the_targets_weights_not_at_the_sum_of_slots(case):
    """So twice the slot has twice the attribution."""
    model, x = case
    before = slot_attributions(model, x)
    for U in model.U:
        U *= 2
    after = slot_attributions(model, x)
    for name in before:
        torch.testing.assert_close(after[name], 2 * before[name])


def test_attributions_do_not_depend_on_the_rest_of_the_batch(case):
    model, x = case
    together, alone = component_attributions(model, x, RANK), component_attributions(model, x[1:2], RANK)
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-10, atol=1e-12)


def test_attributions_leave_no_graph_and_no_gradient(case):
    model, x = case
    model.V.requires_grad_(True)
    with torch.enable_grad():
        assert not component_attributions(model, x, RANK).requires_grad
    assert torch.is_grad_enabled()
    assert all(V.grad is None for V in model.V)


class Distracted(nn.Module):
    """Computes with a layer whose result reaches no output."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.main = nn.Linear(4, 6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.side(x)
        return self.main(x)


def test_a_site_that_no_output_depends_on_has_attribution_zero():
    model = with_random_slots(Distracted())
    found = slot_attributions(model, torch.randn(3, 4, dtype=torch.float64))
    assert not found["side"].any()
    assert found["main"].all()


def many_outputs() -> tuple[ComponentModel, Tensor]:
    return with_random_slots(nn.Sequential(nn.Linear(4, 40)), 1), torch.randn(2, 4, dtype=torch.float64)


def test_up_to_sixteen_outputs_are_exact_and_more_are_projected(monkeypatch):
    model, x = many_outputs()
    assert len(attributions.output_gradients(model, x).uses[0].gradients) == attributions.MOST_OUTPUTS == 16
    monkeypatch.setattr(attributions, "MOST_OUTPUTS", 40)
    assert len(attributions.output_gradients(model, x).uses[0].gradients) == 40


EXACT, PROJECTED = Attribution(mode="backward"), Attribution(mode="projections")


def test_random_projections_are_unbiased(monkeypatch):
    model, x = many_outputs()
    exact = component_attributions(model, x, RANK, EXACT)
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(3000, 40, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(attributions, "_directions", lambda output, exact: sample)
    # (v^T J P)^2 has a standard deviation of sqrt(2) times its mean: of 3,000, 2.6 % in the square, 1.3 % in the root.
    torch.testing.assert_close(component_attributions(model, x, RANK, PROJECTED), exact, rtol=4 * 0.013, atol=0)


def test_projections_are_the_same_in_every_call():
    model, x = many_outputs()
    first, second = (component_attributions(model, x, RANK, PROJECTED) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, component_attributions(model, x, RANK, EXACT), rtol=1e-3)


def test_projections_are_the_same_in_both_precisions():
    """A threshold learned in float32 is then a threshold in float64."""
    model, x = many_outputs()
    precise = component_attributions(model, x, RANK, PROJECTED)
    single = component_attributions(model.float(), x.float(), RANK, PROJECTED)
    torch.testing.assert_close(single, precise.float(), rtol=1e-4, atol=0)


def test_a_linear_targets_attribution_is_its_component_on_the_input():
    # f = x W: the derivative along V U is (x V) U, its root mean square over 3 outputs |x V| |U| / sqrt(3)
    model, x = with_random_slots(nn.Sequential(nn.Linear(4, 3)), 1), torch.randn(5, 4, dtype=torch.float64)
    wanted = (x @ model.V[0][0]).abs() * model.U[0][0].norm(dim=1) / math.sqrt(3)
    torch.testing.assert_close(slot_attributions(model, x)["0"][0], wanted)
