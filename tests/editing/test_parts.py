"""Parts by name: what they add to the weights, and the network without them."""

import pytest
import torch

from madpipe.editing.parts import Parts
from madpipe.errors import UnknownNameError
from madpipe.patterns.observation import Observer


@pytest.fixture(scope="module")
def x(own_rows) -> torch.Tensor:
    return torch.from_numpy(own_rows(20, 7, anomalous=True)).double()


@pytest.fixture(scope="module")
def parts(explainer) -> Parts:
    return explainer.of_outputs


def test_the_network_without_nothing_is_the_network(parts, x):
    assert torch.equal(parts.outputs_without(x, [[]])[0], parts.model.clean_forward(x).output[0])


def test_without_all_deltas_of_one_decomposition_it_says_what_is_explained(loaded, x):
    method = loaded.method
    alone = Parts([method], "output")
    explained = Observer(method).observe(x).explained("alive").output[method.matches_output().index(True)]
    torch.testing.assert_close(alone.outputs_without(x, [alone.delta_names])[0], explained)


def test_deltas_of_several_decompositions_leave_the_mean_of_their_explained_weights(loaded, parts):
    methods = [fold.observer.method for fold in loaded.ensemble.folds]
    place = methods[0].matches_output().index(True)
    for site in parts.sites:
        mean = torch.stack([method.alive_weights()[site].matrices[place] for method in methods]).mean(0)
        torch.testing.assert_close(parts.weights[site] - parts.deltas[site], mean)


def test_removals_side_by_side_are_those_one_by_one(parts, x):
    subsets = [[], ["delta@0"], ["delta@2"], ["delta@0", "delta@2"]]
    together = parts.outputs_without(x, subsets)
    for subset, own in zip(subsets, together, strict=True):
        torch.testing.assert_close(parts.outputs_without(x, [subset])[0], own)


def test_a_component_is_its_slot_and_a_cluster_the_sum_of_its_slots(parts):
    method = parts.methods[0]
    name = next(name for name in parts.names if name.startswith("0."))
    index, instance, slot = parts.slots_of(name)[0]
    outer = torch.outer(method.model.V[index][instance][:, slot], method.model.U[index][instance][slot])
    torch.testing.assert_close(parts.added_by([name])["0"], outer)
    for cluster in (name for name in parts.names if name.startswith("component.")):
        rank = sum(int(torch.linalg.matrix_rank(matrix)) for matrix in parts.added_by([cluster]).values())
        assert rank <= len(parts.slots_of(cluster))


def test_every_name_that_scores_give_can_be_removed(loaded, parts, own_rows):
    named = {name for names in loaded.score(own_rows(30, 8)).top_components for name in names}
    parts.check(named)


def test_a_name_said_twice_is_removed_once(parts):
    assert torch.equal(parts.added_by(["delta@0", "delta@0"])["0"], parts.deltas["0"])


@pytest.mark.parametrize(("name", "close"), [("delta@1", "delta@0"), ("delta@00", "delta@0"), ("0.9999", "0.")])
def test_an_unknown_name_is_refused_with_the_nearest(parts, name, close):
    with pytest.raises(UnknownNameError, match=f"no part named '{name}'.*{close}"):
        parts.check([name])
