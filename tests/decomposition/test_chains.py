"""Attributions in chains: those of a backward pass for each output, and no chain where a path could be left out."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition import chains, component_attributions
from madpipe.decomposition.chains import chain_attributions, chain_of, multiplications
from madpipe.decomposition.component_attributions import Attribution, squared_attributions
from madpipe.targets import superposition

RANK, COMPONENTS, INSTANCES = 2, 3, 2
BACKWARD = Attribution(mode="backward")

CHAINS = {
    "superposition": lambda: superposition.build(4, 2, identity=True),
    "functions in a row": lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Tanh(), nn.Linear(5, 3), nn.Sigmoid()),
    "no function at the end": lambda: nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 6), nn.Linear(6, 3)),
    "one site": lambda: nn.Sequential(nn.Linear(4, 3)),
}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.relu(self.inner(x)))


class Branches(nn.Module):
    """Two sites read the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        return torch.relu(self.second(x))


class EarlierPositions(nn.Module):
    """A site that reads positions before one that reads none."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(2, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x.view(-1, 2, 2)).flatten(1))


class Doubled(torch.autograd.Function):
    """Something that no recorder of torch's functions can see."""

    @staticmethod
    def forward(ctx, values):
        return 2 * values

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Unseen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Doubled.apply(self.inner(x)))


NO_CHAINS = {
    "residual": Residual,
    "branches": Branches,
    "positions": EarlierPositions,
    "unseen": Unseen,
    "unseen at the end": lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)),
    "in place": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
}


def decomposed(target: nn.Module) -> ComponentModel:
    """Random slots, in float64."""
    sites = find_sites(target)
    model = ComponentModel(target, sites, [COMPONENTS * RANK] * len(sites), INSTANCES).double()
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    return model


def inputs(rows: int = 12) -> Tensor:
    return torch.randn(rows, 4, dtype=torch.float64)


@pytest.mark.parametrize("target", CHAINS)
@pytest.mark.parametrize("cached", [1, chains.CACHED])
def test_a_chains_attributions_and_their_gradients_are_those_of_backward_passes(target, cached, monkeypatch):
    monkeypatch.setattr(chains, "CACHED", cached)
    model, x = decomposed(CHAINS[target]()), inputs()
    found = chain_of(model, x)
    assert found is not None
    values = chain_attributions(model, found, RANK)
    expected = squared_attributions(model, x, RANK, BACKWARD, own=True)
    torch.testing.assert_close(values, expected)
    weights, slots = torch.randn_like(values), [*model.V, *model.U]
    own = torch.autograd.grad((values * weights).sum(), slots)
    torch.testing.assert_close(own, torch.autograd.grad((expected * weights).sum(), slots))


def test_a_linear_map_that_is_no_site_carries_what_components_make():
    target = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3), nn.Tanh())
    model = ComponentModel(target, find_sites(target, ["0"]), [COMPONENTS * RANK], INSTANCES).double()
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    x = inputs()
    found = chain_of(model, x)
    assert found is not None
    expected = squared_attributions(model, x, RANK, BACKWARD, own=True)
    torch.testing.assert_close(chain_attributions(model, found, RANK), expected)


@pytest.mark.parametrize("target", NO_CHAINS)
def test_no_path_is_left_out(target):
    assert chain_of(decomposed(NO_CHAINS[target]()), inputs()) is None


def test_multiplications_are_those_of_what_sites_read_and_of_what_comes_in():
    # (4 + 5 sites' inputs) * 6 before the function, then (6 + 6) * 3
    target = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    found = chain_of(decomposed(target), inputs())
    assert found is not None
    assert multiplications(found) == (4 + 5) * 6 + (6 + 6) * 3


@pytest.mark.parametrize(("mode", "taken"), [("auto", True), ("forward", True), ("backward", False)])
def test_a_chain_is_taken_where_it_is_cheaper_and_not_for_a_backward_pass(mode, taken, monkeypatch):
    taken_here = []

    def noted(*given):
        taken_here.append(True)
        return chain_attributions(*given)

    monkeypatch.setattr(component_attributions, "chain_attributions", noted)
    model, x = decomposed(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))), inputs(100)
    expected = squared_attributions(model, x, RANK, BACKWARD, own=True)
    torch.testing.assert_close(squared_attributions(model, x, RANK, Attribution(mode=mode), own=True), expected)
    assert bool(taken_here) == taken
