"""Attribution kinds and the ways gradients are had: equal to autograd per output, to each other, and to differences."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition.component_attributions import (
    Attribution,
    chosen_mode,
    component_attributions,
    squared_attributions,
)

RANK, COMPONENTS = 3, 4


class Positional(nn.Module):
    """A linear map at every position, used twice, then a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(torch.tanh(self.mix(x)))).mean(1))


def tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.GELU(), nn.Linear(4, 3))


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 2, stride=2), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, 3))


def wide() -> nn.Module:
    """So many outputs that one product for each input is made."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 50), nn.Sigmoid())


TARGETS = {
    "positional": (Positional, (5, 4)),
    "tied": (tied, (4,)),
    "conv": (convolutional, (1, 4, 4)),
    "wide": (wide, (4,)),
}


def decomposed(target: nn.Module, instances: int = 2, components: int = COMPONENTS, rank: int = RANK) -> ComponentModel:
    """Random slots, in float64."""
    sites = find_sites(target)
    model = ComponentModel(target, sites, [components * rank] * len(sites), instances).double()
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    return model.requires_grad_(False)


@pytest.fixture(params=TARGETS, ids=str)
def case(request) -> tuple[ComponentModel, Tensor]:
    build, shape = TARGETS[request.param]
    return decomposed(build()), torch.randn(3, *shape, dtype=torch.float64)


def matrix(model: ComponentModel, index: int, instance: int, component: int) -> Tensor:
    slots = slice(component * RANK, component * RANK + RANK)
    return (model.V[index][instance][:, slots] @ model.U[index][instance][slots]).t()


def outputs(model: ComponentModel, x: Tensor, instance: int, component: int, amount: float, scale: float) -> Tensor:
    """f(x | scale * W + amount * P_c), [B, O], by weights written into the target."""
    sites = model.sites
    kept = {site.name: model.target.get_submodule(site.name).weight.clone() for site in sites}
    for i, site in enumerate(sites):
        weight = model.target.get_submodule(site.name).weight
        weight.copy_(scale * kept[site.name] + amount * matrix(model, i, instance, component).reshape(weight.shape))
    found = model.target(x).flatten(1)
    for name, weight in kept.items():
        model.target.get_submodule(name).weight.copy_(weight)
    return found


def by_autograd(model: ComponentModel, x: Tensor, scales: list[float]) -> Tensor:
    """sqrt(mean_o (mean over scales of sum_l <df_o/dW_l, P_cl>)^2), one output and input at a time: [S, B, C]."""
    weights = [model.target.get_submodule(site.name).weight for site in model.sites]
    kept = [weight.clone() for weight in weights]
    effects = torch.zeros(model.instances, len(x), COMPONENTS, model.target(x).flatten(1).shape[1]).double()
    for scale in scales:
        for weight, whole in zip(weights, kept, strict=True):
            weight.copy_(scale * whole).requires_grad_(True)
        for b in range(len(x)):
            for o, value in enumerate(model.target(x[b : b + 1]).flatten()):
                gradients = torch.autograd.grad(value, weights, retain_graph=True)
                for s in range(model.instances):
                    for c in range(COMPONENTS):
                        parts = [(g.flatten(1) * matrix(model, i, s, c)).sum() for i, g in enumerate(gradients)]
                        effects[s, b, c, o] += sum(parts) / len(scales)
        for weight, whole in zip(weights, kept, strict=True):
            weight.requires_grad_(False).copy_(whole)
    return effects.square().mean(-1).sqrt()


@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_every_way_gives_what_autograd_gives_for_each_output(case, mode):
    model, x = case
    torch.testing.assert_close(
        component_attributions(model, x, RANK, Attribution(mode=mode)), by_autograd(model, x, [1.0])
    )


@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_integrated_gradients_are_the_mean_of_gradients_at_midpoints_of_the_weights_path(case, mode):
    model, x = case
    found = component_attributions(model, x, RANK, Attribution("integrated_gradients", mode, 2))
    torch.testing.assert_close(found, by_autograd(model, x, [0.25, 0.75]))


def test_ablation_is_the_change_of_outputs_where_the_component_leaves_the_weights(case):
    model, x = case
    found = component_attributions(model, x, RANK, Attribution("ablation"))
    for s in range(model.instances):
        for c in range(COMPONENTS):
            change = model.target(x).flatten(1) - outputs(model, x, s, c, -1.0, 1.0)
            torch.testing.assert_close(found[s, :, c], change.square().mean(1).sqrt())


@pytest.mark.parametrize("kind", ["gradient", "integrated_gradients", "ablation"])
def test_own_attributions_are_those_of_each_instance_on_its_own_part(case, kind):
    model, x = case
    parts = torch.cat([x, 2 * x])
    own = squared_attributions(model, parts, RANK, Attribution(kind), own=True).sqrt()
    expected = [component_attributions(model, part, RANK, Attribution(kind))[s] for s, part in enumerate((x, 2 * x))]
    torch.testing.assert_close(own, torch.stack(expected))


@pytest.mark.parametrize("kind", ["gradient", "integrated_gradients", "ablation"])
def test_attributions_do_not_depend_on_the_rest_of_the_batch(case, kind):
    model, x = case
    how = Attribution(kind)
    together, alone = component_attributions(model, x, RANK, how), component_attributions(model, x[1:2], RANK, how)
    torch.testing.assert_close(together[:, 1:2], alone, rtol=1e-10, atol=1e-12)


def test_ablation_is_the_gradient_where_outputs_are_linear_in_the_weights():
    model, x = decomposed(nn.Sequential(nn.Linear(4, 3))), torch.randn(5, 4, dtype=torch.float64)
    gradient = component_attributions(model, x, RANK)
    torch.testing.assert_close(component_attributions(model, x, RANK, Attribution("ablation")), gradient)


def test_integrated_gradients_of_the_whole_weights_are_the_difference_it_makes_to_have_weights():
    """Completeness: one component, equal to W, takes f from its biases alone to f; midpoints err by 1 / n^2."""
    target = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model, x = decomposed(target, 1, 1, 6), torch.randn(5, 4, dtype=torch.float64)
    for i in range(len(model.sites)):
        left, values, right = torch.linalg.svd(model.weight(i), full_matrices=False)
        model.V[i].zero_()[0, :, : len(values)], model.U[i].zero_()[0, : len(values)] = left * values, right
    removed = {site.name: torch.zeros_like(model.weight(i)) for i, site in enumerate(model.sites)}
    without = torch.func.functional_call(model.target, {f"{k}.weight": v.t() for k, v in removed.items()}, x)
    wanted = (model.target(x) - without).square().mean(1).sqrt()
    errors = []
    for steps in (10, 40):
        found = component_attributions(model, x, 6, Attribution("integrated_gradients", steps=steps))[0, :, 0]
        errors.append(float((found - wanted).abs().max()))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 10


def test_a_network_that_is_linear_from_a_site_on_has_the_same_attributions_either_way():
    """There every input has the same gradients, and they are taken once."""
    target = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 30), nn.Linear(30, 40))
    model, x = decomposed(target), torch.randn(7, 4, dtype=torch.float64)
    exact = component_attributions(model, x, RANK, Attribution(mode="backward"))
    torch.testing.assert_close(component_attributions(model, x, RANK, Attribution(mode="forward")), exact)


@pytest.mark.parametrize(
    ("outputs", "components", "mode"),
    [(16, 3, "backward"), (16, 500, "backward"), (17, 16, "forward"), (17, 17, "projections"), (500, 3, "forward")],
)
def test_auto_is_exact_where_that_takes_at_most_sixteen_passes(outputs, components, mode):
    assert chosen_mode("auto", outputs, components) == mode


@pytest.mark.parametrize("kind", ["gradient", "integrated_gradients", "ablation"])
@pytest.mark.parametrize("mode", ["backward", "forward"])
def test_squared_attributions_have_the_gradient_of_their_differences(kind, mode):
    model = decomposed(tied(), 1)
    x = torch.randn(3, 4, dtype=torch.float64)
    x[0] = 0
    how = Attribution(kind, mode, 2)
    U = model.U[0].requires_grad_(True)
    squared_attributions(model, x, RANK, how, own=True).sum().backward()
    U.requires_grad_(False)
    step = 1e-5 * torch.randn_like(U)
    ends = []
    for sign in (1, -1):
        U += sign * step
        ends.append(squared_attributions(model, x, RANK, how, own=True).sum())
        U -= sign * step
    assert U.grad is not None
    assert float((U.grad * step).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2, rel=1e-5)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor in memory that any operation made; an expanded view takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("kind", ["gradient", "integrated_gradients", "ablation"])
@pytest.mark.parametrize("mode", ["backward", "forward", "projections"])
def test_no_tensor_of_components_times_a_weight_is_made(kind, mode):
    B, C, wide, hidden = 8, 6, 300, 40
    target = nn.Sequential(nn.Linear(wide, hidden), nn.Tanh(), nn.Linear(hidden, wide))
    model, x = decomposed(target, 1, C, 1), torch.randn(B, wide, dtype=torch.float64)
    with Largest() as largest:
        squared_attributions(model, x, 1, Attribution(kind, mode, 2), own=True)
    # a backward pass for each output holds its gradient with respect to all that the widest site writes
    allowed = {"backward": wide, "forward": C, "projections": 16}[mode] * B * wide
    assert largest.numbers <= allowed
    if mode != "backward":
        assert largest.numbers < C * wide * hidden


def test_components_take_turns_where_together_they_would_be_too_large(monkeypatch, case):
    model, x = case
    whole = {kind: component_attributions(model, x, RANK, Attribution(kind)) for kind in ("gradient", "ablation")}
    monkeypatch.setattr("madpipe.decomposition.component_attributions.MOST_NUMBERS", 1)
    for kind, expected in whole.items():
        torch.testing.assert_close(component_attributions(model, x, RANK, Attribution(kind)), expected)
