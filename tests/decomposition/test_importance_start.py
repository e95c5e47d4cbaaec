"""Importance functions of a sparse start are open where its atoms are of use, before any training."""

import pytest
import torch
from torch import nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.importance_start import fit_importances
from madpipe.decomposition.spd import SPD
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.targets import superposition


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(1, 500, 3, generator=torch.Generator().manual_seed(0))


def fitted(rows: torch.Tensor, used: torch.Tensor, positions: int | None = None) -> torch.Tensor:
    """Logits of a linear map after `fit_importances`, [1, N, K], or [1, N, P, K]."""
    layer = nn.Linear(3, used.shape[-1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    shown = rows if positions is None else torch.stack([rows] + [torch.zeros_like(rows)] * (positions - 1), 2)
    fit_importances(lambda: {"site": layer(shown)}, {"site": used}, layer.parameters())
    return layer(shown).detach()


def test_slots_open_where_they_are_of_use(rows):
    used = rows > 0
    found = fitted(rows, used)
    assert ((found > 0.5) == used).float().mean() > 0.97


def test_a_slot_of_no_use_closes_everywhere(rows):
    found = fitted(rows, torch.zeros_like(rows, dtype=torch.bool))
    assert (found <= 0.01).all()


def test_a_rare_use_weighs_as_much_as_the_rest(rows):
    used = rows > 1.8  # on one row in thirty
    found = fitted(rows, used)
    assert (found[used] > 0.5).float().mean() > 0.9


def test_one_open_position_is_enough(rows):
    used = rows > 0
    found = fitted(rows, used, positions=2)
    assert ((found.amax(2) > 0.5) == used).float().mean() > 0.9
    assert (found[:, :, 1] < 0.8).all()


@pytest.mark.parametrize(("function", "hidden"), [("slot", 8), ("shared", 64)])
def test_a_sparse_start_gates_before_the_first_step(function, hidden):
    target = superposition.build(6, 3, identity=False)
    directions = torch.cat([torch.eye(3), -torch.eye(3)])
    weights = {"linear1.weight": directions.t(), "linear2.weight": directions, "linear2.bias": torch.zeros(6)}
    target.load_state_dict(target.state_dict() | weights)
    target.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1000, 6, generator=generator)
    x = x * (torch.rand(x.shape, generator=generator) < 0.1)
    sites = find_sites(target)
    settings = {"start": "sparse", "importance_function": function, "components": 12, "importance_hidden": hidden}
    config = SPD.Config.model_validate(settings | {"variants": [{"name": "only"}]})
    method = SPD(target, sites, config, len(SPD.variants(config)))
    method.initialise(trusted_statistics(target, sites, x, "regression"), torch.Generator().manual_seed(0))
    activity = method.activity(method.model.clean_forward(x), x)["linear1"][0]
    read = method.model.V[0][0].abs().argmax(0)[:6]  # the feature of each of the six atoms
    on, off = x[:, read] > 0.3, x[:, read] == 0
    assert activity[:, :6][on].mean() > 0.8
    assert activity[:, :6][off].mean() < 0.1
    assert activity[:, 6:].max() < 0.1
