"""APD's sparse start: atoms of use on the same trusted inputs, over all sites, are one component."""

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.sites import find_sites
from madpipe.config.resolving import validated
from madpipe.decomposition.apd import APD, APDConfig
from madpipe.decomposition.atom_usage import SparseForm
from madpipe.decomposition.initialisation import grouped_by_use
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.recovery import recovery
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.errors import ConfigError
from madpipe.targets import superposition
from madpipe.tasks.recovery_settings import APD as APD_RECOVERY
from madpipe.tasks.superposition import SuperpositionTask, known_mechanisms

FEATURES, PROBABILITY, BIAS = 5, 0.1, 0.3


def pentagon(identity: bool = False) -> nn.Module:
    """Five directions in a plane, each feature given back where it is on alone."""
    module = superposition.build(FEATURES, 2, identity)
    angles = torch.arange(FEATURES) * 2 * torch.pi / FEATURES
    directions = torch.stack([angles.cos(), angles.sin()])
    module.linear1.weight.data, module.linear2.weight.data = directions, directions.t().contiguous()
    module.linear2.bias.data.fill_(-BIAS)
    return module.eval().requires_grad_(False)


def sparse_rows(count: int = 2000) -> Tensor:
    return torch.rand(count, FEATURES) * (torch.rand(count, FEATURES) < PROBABILITY)


def started(instances: int = 2, identity: bool = False, **settings) -> APD:
    target, rows = pentagon(identity), sparse_rows()
    method = APD(target, find_sites(target), APDConfig(**(APD_RECOVERY | settings)), instances)
    statistics = trusted_statistics(target, method.model.sites, rows, "regression")
    method.initialise(statistics, torch.Generator().manual_seed(0))
    return method


@pytest.fixture(scope="module")
def method() -> APD:
    torch.manual_seed(0)
    return started()


def recovered(method: APD, identity: bool = False):
    config = SuperpositionTask.Config(features=FEATURES, hidden=2, identity=identity)
    return recovery(method, known_mechanisms(config))


def test_every_mechanism_is_one_component_of_both_layers(method):
    for found in recovered(method):
        assert found.matched == found.mechanisms == FEATURES
        assert found.spare == 0  # components without a group count as none
        assert found.figures()["mmcs"] > 0.999


def test_the_components_sum_to_the_weights_up_to_a_small_delta(method):
    for i in range(len(method.model.sites)):
        weight = method.model.weight(i)
        assert bool((method.model.delta(i).flatten(1).norm(dim=1) < 0.02 * weight.norm()).all())


def test_top_k_is_near_the_number_of_features_that_are_on(method):
    expected = FEATURES * PROBABILITY * (1 - BIAS)  # a lone feature below the bias moves no output
    assert bool((method.top_k > 0.8 * expected).all())
    assert bool((method.top_k < 1.5 * expected).all())


def test_a_top_k_that_is_set_is_kept():
    assert started(top_k=1.25, instances=1).top_k.tolist() == [1.25]


def test_what_top_k_was_found_is_stored(method):
    assert torch.equal(method.state_dict()["top_k"], method.top_k)


def test_a_layer_without_sparse_form_is_a_component_of_its_own():
    """The identity between the layers is of use on all inputs."""
    (found,) = recovered(started(instances=1, identity=True), identity=True)
    assert not found.broken
    assert found.figures()["block_parts/hidden"] == 2


def test_groups_beyond_the_components_are_left_out():
    method = started(instances=1, components=3)
    (found,) = recovered(method)
    assert (found.matched, found.spare) == (3, 0)


def test_training_keeps_what_the_start_has_found():
    method = started(instances=1, steps=30)
    optimizer, rows = make_optimizer(method), sparse_rows()
    for step in range(30):
        take_step(method, optimizer, draw_batch(method, rows, [torch.arange(len(rows))], step, 0), step)
    (found,) = recovered(method)
    assert found.matched == FEATURES
    assert found.figures()["mmcs"] > 0.998


def test_a_random_start_of_unknown_top_k_is_refused():
    with pytest.raises(ConfigError, match=r"decomposition: top_k is null.*start: sparse"):
        validated(APDConfig, {"top_k": None}, "x.yaml", "decomposition")


def form(used: list[list[int]], sparse: bool = True) -> SparseForm:
    """Atoms given by the rows on which each is of use."""
    n, columns = len(used), torch.zeros(12, len(used), dtype=torch.bool)
    for k, rows in enumerate(used):
        columns[rows, k] = True
    return SparseForm(torch.ones(3, n), torch.ones(n, 3), columns, torch.arange(len(columns)), 0.0, sparse)


def test_atoms_of_use_on_the_same_inputs_are_one_component():
    forms = {"a": form([[0, 1, 2], [3, 4, 5]]), "b": form([[3, 4, 5, 6], [0, 1], [8, 9]])}
    groups = grouped_by_use(forms, rank=1)
    assert sorted(map(sorted, (group.items() for group in groups))) == [
        [("a", [0]), ("b", [1])],
        [("a", [1]), ("b", [0])],
        [("b", [2])],
    ]


def test_a_component_has_at_most_rank_atoms_at_a_site():
    forms = {"a": form([[0, 1], [2, 3], [4, 5]]), "b": form([[0, 1], [0, 1]])}
    assert {"a": [0], "b": [0, 1]} in grouped_by_use(forms, rank=2)
    assert [group for group in grouped_by_use(forms, rank=1) if "b" in group] == [{"a": [0], "b": [0]}, {"b": [1]}]


def test_singular_vectors_fill_components_of_their_own():
    everywhere = list(range(12))
    forms = {"id": form([everywhere] * 5, sparse=False), "a": form([[0, 1]])}
    assert grouped_by_use(forms, rank=2) == [{"a": [0]}, {"id": [0, 1]}, {"id": [2, 3]}, {"id": [4]}]
