"""Attributions in chains: those of a backward pass for each output, and no chain where a path could be left out."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components import sparse_rows
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
    "biases before a site": lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 6), nn.Tanh()),
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
@pytest.mark.parametrize("share", [0.1, 1.0], ids=["sparse", "dense"])
def test_a_chains_attributions_and_their_gradients_are_those_of_backward_passes(target, cached, share, monkeypatch):
    monkeypatch.setattr(chains, "CACHED", cached)
    monkeypatch.setattr(sparse_rows, "FEW", 0.5)
    model, x = decomposed(CHAINS[target]()), inputs()
    x = x * (torch.rand(x.shape) < share)
    found = chain_of(model, x)
    assert found is not None
    values = chain_attributions(model, found, RANK)
    expected = squared_attributions(model, x, RANK, BACKWARD, own=True)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)
    weights, slots = torch.randn_like(values), [*model.V, *model.U]
    own = torch.autograd.grad((values * weights).sum(), slots)
    wanted = torch.autograd.grad((expected * weights).sum(), slots)
    torch.testing.assert_close(own, wanted, rtol=1e-10, atol=1e-10)


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


def test_multiplications_are_those_of_what_is_read_and_of_what_comes_in():
    # 4 inputs * 6 before the function, whatever sites stand there, then (6 + 6) * 3
    target = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    found = chain_of(decomposed(target), inputs())
    assert found is not None
    assert multiplications(found) == 4 * 6 + (6 + 6) * 3


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


@pytest.mark.parametrize("rows", [1, 200])
def test_an_input_is_attributed_exactly_in_a_batch_of_any_size_where_projections_would_cost_more(rows):
    target = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 20))
    sites = find_sites(target)
    model = ComponentModel(target, sites, [20 * RANK] * len(sites)).double().requires_grad_(False)
    for parameter in [*model.V, *model.U]:
        nn.init.normal_(parameter)
    x = inputs(rows)
    assert component_attributions.chosen_mode("auto", 20, 20) == "projections"
    found = squared_attributions(model, x, RANK, Attribution(), own=True)
    torch.testing.assert_close(found, squared_attributions(model, x, RANK, BACKWARD, own=True))
