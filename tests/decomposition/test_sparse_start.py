"""The sparse start finds planted rank-one mechanisms without training, and says where there are none."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition.atom_usage import AtomUsage, SparseForm
from madpipe.decomposition.sparse_start import (
    RESPONSE_UNREPRODUCED,
    UNREPRODUCED,
    _response_form,
    sparse_forms,
)
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.targets import superposition

FEATURES, HIDDEN = 6, 3


@pytest.fixture(scope="module")
def target() -> nn.Module:
    """Six features in three dimensions, along the axes both ways: a lone feature moves its own output alone."""
    module = superposition.build(FEATURES, HIDDEN, identity=True)
    directions = torch.cat([torch.eye(HIDDEN), -torch.eye(HIDDEN)])
    weights = {"linear1.weight": directions.t(), "linear2.weight": directions, "linear2.bias": torch.zeros(FEATURES)}
    module.load_state_dict(module.state_dict() | weights)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def trusted() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3000, FEATURES, generator=generator)
    return x * (torch.rand(x.shape, generator=generator) < 0.1)


def forms(target: nn.Module, trusted: Tensor, seed: int = 0) -> dict[str, SparseForm]:
    sites = find_sites(target)
    metric = trusted_statistics(target, sites, trusted, "regression").metric
    return sparse_forms(target, sites, trusted, metric, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def found(target, trusted) -> dict[str, SparseForm]:
    return forms(target, trusted)


def test_atoms_sum_to_the_weight(target, found):
    for site, form in found.items():
        weight = target.get_submodule(site).weight.t()
        torch.testing.assert_close(form.V @ form.U, weight, atol=0.02, rtol=0)


def test_each_feature_is_read_by_one_atom(target, found):
    form = found["linear1"]
    read = form.V.abs() / form.V.norm(dim=0)
    assert form.U.shape[0] == FEATURES
    assert (read > 0.98).sum(1).tolist() == [1] * FEATURES  # a unit vector each, a different one each


def test_each_output_is_written_by_one_atom(found):
    form = found["linear2"]
    written = form.U.abs() / form.U.norm(dim=1, keepdim=True)
    assert form.U.shape[0] == FEATURES
    assert (written > 0.98).sum(0).tolist() == [1] * FEATURES


def test_an_atom_is_of_use_where_its_feature_is_on(trusted, found):
    share = found["linear1"].used.float().mean(0)
    assert (share - 0.1).abs().max() < 0.05


def test_sparse_forms_reproduce_trusted_outputs(found):
    for form in found.values():
        if form.sparse:
            assert form.unreproduced <= UNREPRODUCED


def test_one_seed_gives_one_start_and_another_another(target, trusted, found):
    same, other = forms(target, trusted), forms(target, trusted, seed=1)
    assert torch.equal(same["linear1"].V, found["linear1"].V)
    assert not torch.equal(other["linear1"].V, found["linear1"].V)


def test_a_weight_that_every_input_uses_whole_starts_at_its_singular_vectors():
    module = nn.Sequential(nn.Linear(4, 4, bias=False)).eval().requires_grad_(False)
    (form,) = forms(module, torch.randn(500, 4)).values()
    assert form.U.shape[0] <= 4
    weight = module[0].weight.t()
    assert (form.V @ form.U - weight).norm() < 0.06 * weight.norm()  # up to a rest not worth an atom


def test_a_convolution_has_atoms_too():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval().requires_grad_(False)
    for form in forms(module, torch.randn(300, 1, 4, 4)).values():
        assert form.V.isfinite().all()
        assert form.U.isfinite().all()


@pytest.fixture(scope="module")
def crowded() -> tuple[nn.Module, Tensor]:
    """Twelve features read by six neurons, whose signs differ: no gradient sees all that a feature's row writes."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 12, bias=False))
    x = torch.rand(3000, 12, generator=generator) * 2 - 1
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return module.eval().requires_grad_(False), x * (torch.rand(x.shape, generator=generator) < 0.05)


def test_response_atoms_read_one_feature_each_and_sum_to_the_weight(crowded):
    target, trusted = crowded
    sites = find_sites(target)
    metric = trusted_statistics(target, sites, trusted, "regression").metric
    model = ComponentModel(target, sites, [1] * len(sites))
    usage = AtomUsage(model, trusted, torch.arange(1000), metric)
    form = _response_form(usage, 0, trusted, torch.Generator().manual_seed(0))
    assert form.sparse
    assert form.unreproduced <= RESPONSE_UNREPRODUCED
    read = form.V.abs() / form.V.norm(dim=0)
    assert sorted(read.argmax(0).tolist()) == list(range(12))
    assert (read.amax(0) > 0.95).all()
    torch.testing.assert_close(form.V @ form.U, model.weight(0), atol=0.02, rtol=0)


def test_a_weight_that_every_feature_uses_whole_has_no_sparse_form(crowded):
    form = forms(*crowded)["2"]
    assert not form.sparse
    assert form.U.shape[0] == 6


def test_a_site_that_never_reads_anything_starts_at_its_singular_vectors():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    module[0].bias.fill_(-100.0)  # no neuron ever fires
    found = forms(module.eval(), torch.randn(300, 4, generator=torch.Generator().manual_seed(0)))
    assert [form.sparse for form in found.values()] == [False, False]
    torch.testing.assert_close(found["2"].V @ found["2"].U, module[2].weight.t())
