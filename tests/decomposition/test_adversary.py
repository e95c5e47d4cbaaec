"""Adversarial sources where the worst mask is known."""

import pytest
import torch
from torch import nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.adversary import PersistentSources, fresh_attack, masks_from_sources
from madpipe.decomposition.quality import quality_by_seed
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.decomposition.vpd import VPD, VPDConfig


@pytest.fixture
def one_weight():
    """`one_weight(parts, importance)`: y = 2 x as slots of these sizes, each of this importance on every input."""

    def made(parts: list[float], importance: float) -> tuple[VPD, torch.Tensor]:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(2.0)
        target, x = nn.Sequential(layer).requires_grad_(False), torch.linspace(-1, 1, 40)[:, None]
        method = VPD(target, find_sites(target), VPDConfig(components=len(parts)), 1)
        method.initialise(trusted_statistics(target, method.model.sites, x, "regression"), torch.Generator())
        method.requires_grad_(False)
        method.model.V[0].fill_(1.0)
        method.model.U[0].copy_(torch.tensor(parts)[None, :, None])
        method.importance[0].write.zero_()
        method.importance[0].bias.fill_(importance)
        return method, x

    return made


def lost(method, x, share: float) -> float:
    """KL where y = 2 x becomes (1 - share) 2 x."""
    return float((2 * share * x).square().mean() / (2 * method.statistics.metric.variance))


@pytest.mark.parametrize(
    ("parts", "share"),
    [
        ([2.0], 1.0),
        ([1.5, 0.5], 1.0),
        ([1.0], 1.0),  # the delta holds the other half, and is ablated too
        ([3.0, -1.0], 1.5),  # the worst mask keeps the part that is of the other sign: -1 in place of 2
    ],
)
def test_without_importance_everything_that_helps_is_ablated(one_weight, parts, share):
    method, x = one_weight(parts, 0.0)
    assert float(fresh_attack(method, x)) == pytest.approx(lost(method, x, share), rel=1e-4)


def test_what_is_important_is_out_of_reach(one_weight):
    assert float(fresh_attack(*one_weight([1.5, 0.5], 1.0))) == pytest.approx(0.0, abs=1e-9)


def test_half_an_importance_halves_what_can_be_taken(one_weight):
    method, x = one_weight([2.0], 0.5)
    assert float(fresh_attack(method, x)) == pytest.approx(lost(method, x, 0.5), rel=1e-4)


def test_an_attack_is_worse_than_random_masks(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows).eval().requires_grad_(False)
    (figures,) = quality_by_seed(method, rows.split(16))
    assert figures["reconstruction_adversarial/vpd"] > 1.5 * figures["reconstruction_stochastic/vpd"] > 0


def test_an_attack_leaves_the_other_figures_and_does_not_see_chunks(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows).eval().requires_grad_(False)
    (attacked,), (plain,) = (quality_by_seed(method, rows.split(16), attacked=told) for told in (True, False))
    adversarial = attacked.pop("reconstruction_adversarial/vpd")
    assert attacked == plain
    assert quality_by_seed(method, [rows])[0]["reconstruction_adversarial/vpd"] == adversarial


def test_an_attack_on_some_of_the_rows_is_that_of_those_rows(start, small_mlp, rows, monkeypatch):
    monkeypatch.setattr("madpipe.decomposition.quality.ATTACKED_ROWS", 20)
    method = start("vpd", small_mlp, rows).eval().requires_grad_(False)
    (figures,) = quality_by_seed(method, rows.split(16))
    assert figures["reconstruction_adversarial/vpd"] == float(fresh_attack(method, rows[:20]))


@pytest.mark.parametrize("name", ["spd", "apd"])
def test_a_method_that_was_not_trained_against_an_adversary_is_attacked_too(start, small_cnn, images, name):
    method = start(name, small_cnn, images)
    method.settle([images])
    found = fresh_attack(method.eval().requires_grad_(False), images)
    assert found.shape == (method.model.instances,)
    assert (found > 0).all()


# Sources that persist


def test_the_first_ascent_is_a_step_of_the_rate_along_the_sign_of_the_gradient():
    sources = PersistentSources([2], 1, 1)
    sources.source_0.copy_(torch.tensor([[[0.5, 0.5, 0.998]]]))
    sources.ascend([torch.tensor([[[3.0, -0.2, 7.0]]])], 0.01)  # Adam's first step: g / |g|
    torch.testing.assert_close(sources.source_0, torch.tensor([[[0.51, 0.49, 1.0]]]))


def test_ascents_are_those_of_adam():
    torch.manual_seed(0)
    sources, gradients = PersistentSources([4], 2, 3), torch.randn(6, 2, 3, 5)
    sources.source_0.fill_(0.5)
    reference = nn.Parameter(torch.full((2, 3, 5), 0.5))
    adam = torch.optim.Adam([reference], lr=0.01, betas=(0.5, 0.99), maximize=True)
    for gradient in gradients:
        sources.ascend([gradient], 0.01)
        reference.grad = gradient
        adam.step()
    torch.testing.assert_close(sources.source_0, reference.detach())


def test_a_source_is_that_of_a_row_at_all_of_its_positions():
    g, source = torch.full((1, 2, 3, 4), 0.5), torch.tensor([[[0.0, 1.0, 0.5, 0.2, 0.9], [1.0] * 5]])
    mask = masks_from_sources({"site": g}, [source])["site"]
    # m = 0.5 + 0.5 r
    torch.testing.assert_close(mask.slots[0, 0], torch.tensor([0.5, 1.0, 0.75, 0.6]).expand(3, 4))
    assert (mask.slots[0, 1] == 1).all()
    assert mask.delta.tolist() == [[pytest.approx(0.9), 1.0]]
