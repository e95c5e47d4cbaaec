"""Leaky hard sigmoids at every boundary, and the importance function's invariances."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.layers import SiteReading, site_operation, weight_matrix
from madpipe.components.sites import Site, find_sites
from madpipe.decomposition.causal_importance import (
    LEAK,
    SharedImportance,
    SiteImportance,
    SlotImportance,
    importance_functions,
    leaky_hard_sigmoids,
)


def lower_leaky_hard_sigmoid(x: Tensor) -> Tensor:
    return leaky_hard_sigmoids(x)[0]


def upper_leaky_hard_sigmoid(x: Tensor) -> Tensor:
    return leaky_hard_sigmoids(x)[1]


def slope(function, at: float, upstream: float) -> float:
    x = torch.tensor(at, requires_grad=True)
    (function(x) * upstream).backward()
    return float(x.grad)


@pytest.mark.parametrize(
    ("x", "value"), [(-3.0, 0.0), (-0.5, 0.0), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (1.5, 1.0), (9.0, 1.0)]
)
def test_the_lower_one_is_a_clamp_to_zero_and_one(x: float, value: float):
    assert float(lower_leaky_hard_sigmoid(torch.tensor(x))) == value


# A positive upstream gradient lowers x in descent: below 0 it is dropped, or a slot would sink for ever.
@pytest.mark.parametrize(
    ("x", "upstream", "gradient"),
    [
        (-3.0, 1.0, 0.0),
        (-3.0, -1.0, -LEAK),
        (-1e-6, 1.0, 0.0),
        (-1e-6, -1.0, -LEAK),
        (0.0, 1.0, 0.0),
        (0.0, -1.0, -LEAK),
        (1e-6, 1.0, 1.0),
        (0.5, -1.0, -1.0),
        (1.0, 1.0, 1.0),
        (1.0, -1.0, -1.0),
        (1.001, 1.0, 0.0),
        (1.001, -1.0, 0.0),
    ],
)
def test_the_lower_ones_gradient(x: float, upstream: float, gradient: float):
    assert slope(lower_leaky_hard_sigmoid, x, upstream) == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("x", "value"), [(-3.0, 0.0), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (1.5, 1 + 0.5 * LEAK), (11.0, 1 + 10 * LEAK)]
)
def test_the_upper_one_rises_slowly_above_one(x: float, value: float):
    assert float(upper_leaky_hard_sigmoid(torch.tensor(x))) == pytest.approx(value)


@pytest.mark.parametrize(
    ("x", "gradient"), [(-3.0, 0.0), (-1e-6, 0.0), (1e-6, 1.0), (0.5, 1.0), (1.0, 1.0), (1.001, LEAK), (9.0, LEAK)]
)
def test_the_upper_ones_gradient_brings_a_slot_stuck_at_one_down(x: float, gradient: float):
    assert slope(upper_leaky_hard_sigmoid, x, 1.0) == pytest.approx(gradient)


def reading(site: Site, target: nn.Module, x: Tensor, V: Tensor) -> SiteReading:
    module = target.get_submodule(site.name)
    return SiteReading(site_operation(site, module), x, V, weight_matrix(module))


def logits(target: nn.Module, x: Tensor, instances: int = 2) -> Tensor:
    (site,) = find_sites(target, ["0"])
    function = SiteImportance(site, 5, instances, 4)
    function.initialise(torch.Generator().manual_seed(0))
    return function(reading(site, target, x.repeat(instances, *[1] * (x.ndim - 1)), function.read)).detach()


def test_a_linear_site_has_one_importance_per_slot_and_position():
    assert logits(nn.Sequential(nn.Linear(3, 2)), torch.randn(6, 4, 3)).shape == (2, 6, 4, 5)


def test_a_convolution_has_one_importance_per_slot_and_output_pixel():
    target = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2))
    assert logits(target, torch.randn(6, 2, 7, 9)).shape == (2, 6, 3, 4, 5)


def test_the_size_of_the_input_does_not_matter():
    target, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(6, 3)
    torch.testing.assert_close(logits(target, 100 * x), logits(target, x), rtol=1e-3, atol=1e-3)


def test_an_input_of_zeros_gives_finite_importances():
    assert logits(nn.Sequential(nn.Linear(3, 2)), torch.zeros(2, 3)).isfinite().all()


def test_a_convolutions_importance_is_a_linear_sites_on_its_patches():
    conv = nn.Conv2d(2, 3, 2)
    x = torch.randn(4, 2, 3, 3)
    patches = nn.functional.unfold(x, 2).transpose(1, 2)  # [4, 2 x 2 positions, 2 channels x 2 x 2]
    on_pixels = logits(nn.Sequential(conv), x).flatten(2, 3)
    torch.testing.assert_close(on_pixels, logits(nn.Sequential(nn.Linear(8, 3)), patches))


def slot_importance(target: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A function of a site's input and V with five slots, and such a V."""
    (site,) = find_sites(target, ["0"])
    function = SlotImportance(site, 5, 2, 4)
    function.initialise(torch.Generator().manual_seed(0))
    return lambda x, V: function(reading(site, target, x, V)), torch.randn(2, site.d_in, 5)


@pytest.mark.parametrize(
    ("target", "shape", "wanted"),
    [
        (nn.Sequential(nn.Linear(3, 2)), (6, 4, 3), (2, 6, 4, 5)),
        (nn.Sequential(nn.Conv2d(2, 3, 3)), (4, 2, 6, 5), (2, 4, 4, 3, 5)),
    ],
    ids=["linear", "conv2d"],
)
def test_a_function_per_slot_has_one_importance_per_slot_and_position(target, shape, wanted):
    function, V = slot_importance(target)
    assert function(torch.randn(2 * shape[0], *shape[1:]), V).shape == wanted


def test_a_function_per_slot_reads_that_slots_inner_activation_alone():
    function, V = slot_importance(nn.Sequential(nn.Linear(3, 2)))
    x = torch.randn(6, 3)
    before = function(x.repeat(2, 1), V)
    V[:, :, 1] += 1.0
    changed = (function(x.repeat(2, 1), V) != before).flatten(0, 1).any(0)
    assert changed.tolist() == [False, True, False, False, False]


def shared_logits(target: nn.Sequential, names: list[str], xs: list[Tensor]) -> tuple[SharedImportance, list[Tensor]]:
    """Of two instances of a shared function with two hidden units and three slots a site, on inputs [B, ...]."""
    sites = find_sites(target, names)
    function = importance_functions("shared", sites, [3] * len(sites), 2, 2)
    assert isinstance(function, SharedImportance)
    for part in function:
        part.initialise(torch.Generator().manual_seed(0))
        nn.init.normal_(part.read_bias)
    repeated = [x.repeat(2, *[1] * (x.ndim - 1)) for x in xs]
    readings = [reading(site, target, x, part.read) for site, x, part in zip(sites, repeated, function, strict=True)]
    return function, [found.detach() for found in function(readings)]


def normalised(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def by_hand(function: SharedImportance, s: int, i: int, reads: list[Tensor]) -> Tensor:
    """Instance s, site i: an MLP on the sum of what its hidden units read of each site."""
    own = function[i]
    return nn.functional.gelu(sum(reads) + own.read_bias[s]) @ own.write[s] + own.bias[s]


@pytest.mark.parametrize("positions", [(), (4,)], ids=["none", "alike"])
def test_a_shared_function_is_one_mlp_on_the_normalised_inputs_of_all_sites(positions):
    xs = [torch.randn(6, *positions, 3), torch.randn(6, *positions, 5)]
    function, found = shared_logits(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), ["0", "1"], xs)
    for s in range(2):
        reads = [normalised(x) @ part.read[s] for x, part in zip(xs, function, strict=True)]
        for i in range(2):
            torch.testing.assert_close(found[i][s], by_hand(function, s, i, reads), rtol=1e-4, atol=1e-5)


def test_a_shared_function_reads_sites_of_other_positions_on_average():
    xs = [torch.randn(6, 4, 3), torch.randn(6, 5)]
    function, found = shared_logits(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), ["0", "1"], xs)
    assert [tuple(value.shape) for value in found] == [(2, 6, 4, 3), (2, 6, 3)]
    own, other = (normalised(x) @ part.read[0] for x, part in zip(xs, function, strict=True))
    torch.testing.assert_close(found[0][0], by_hand(function, 0, 0, [own, other[:, None]]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1][0], by_hand(function, 0, 1, [own.mean(1), other]), rtol=1e-4, atol=1e-5)


def test_a_shared_function_has_an_importance_for_each_pixel_of_a_convolution():
    target = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(8, 2))
    xs = [torch.randn(6, 1, 5, 5), torch.randn(6, 2, 3, 3), torch.randn(6, 8)]
    assert [tuple(value.shape) for value in shared_logits(target, ["0", "1", "3"], xs)[1]] == [
        (2, 6, 3, 3, 3),
        (2, 6, 2, 2, 3),
        (2, 6, 3),
    ]


def test_hidden_units_of_a_shared_function_start_as_large_as_those_of_a_site():
    target = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100))
    sites = find_sites(target, ["0", "1"])
    shared = importance_functions("shared", sites, [3, 3], 1, 50)
    for part in shared:
        part.initialise(torch.Generator().manual_seed(0))
    total = sum(float(part.read.detach().square().sum()) for part in shared) / 50
    assert total == pytest.approx(2.0, rel=0.05)  # the variance of what a unit reads of inputs of mean square 1
