"""Arrays to look at, of decompositions made by hand."""

import numpy as np
import pytest
import torch

from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.inspection import (
    co_importance,
    component_matrices,
    importance_spectra,
    lone_feature_importances,
)


@pytest.fixture
def exact(start, small_mlp, rows):
    """Slot k reads input k and writes row k of the weight. Importances 1, 0.5, 0.05, 0, 0, 0 and dead slots from 4."""
    method = start("spd", small_mlp, rows).eval().requires_grad_(False)
    method.model.V[0].zero_()[:, :, :5] = torch.eye(5)
    method.model.U[0].zero_()[:, :5] = method.model.weight(0)
    for i in range(2):
        method.importance[i].write.zero_()
        method.importance[i].bias.copy_(torch.tensor([1.0, 0.5, 0.05, 0.0, 0.0, -1.0]))
        method.alive(i)[:, 4:] = False
    return method


def test_spectra_are_largest_and_mean_over_all_chunks(exact, rows):
    found = importance_spectra(exact, rows.split(7))
    assert list(found) == ["fc1", "head"]
    for pair in found.values():
        for values in pair:
            np.testing.assert_allclose(values, [[1, 0.5, 0.05, 0, 0, 0]] * 2, atol=1e-6)


def test_spectra_see_the_one_input_that_needs_a_slot(start, small_mlp, rows):
    method = start("spd", small_mlp, rows).eval().requires_grad_(False)
    activity = method.activity(method.model.clean_forward(rows), rows)["fc1"]
    largest, mean = importance_spectra(method, rows.split(7))["fc1"]
    np.testing.assert_allclose(largest, activity.amax(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mean, activity.mean(1), rtol=1e-4, atol=1e-6)


def test_a_lone_feature_is_an_input_with_a_single_one(start, small_mlp, rows):
    method = start("spd", small_mlp, rows).eval().requires_grad_(False)
    third = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    wanted = method.activity(method.model.clean_forward(third), third)["head"][:, 0]
    found = lone_feature_importances(method, 5)["head"]
    assert found.shape == (2, 5, 6)
    np.testing.assert_allclose(found[:, 2], wanted, rtol=1e-4, atol=1e-6)


def test_positions_of_a_convolution_count_by_their_largest(start, small_cnn, images):
    method = start("spd", small_cnn, images).eval().requires_grad_(False)
    activity = method.activity(method.model.clean_forward(images), images)["conv1"]
    assert activity.ndim == 5
    largest, mean = importance_spectra(method, images.split(8))["conv1"]
    np.testing.assert_allclose(largest, activity.amax((1, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mean, activity.mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_matrices_are_the_weight_its_delta_and_alive_components_by_falling_size(exact):
    found, alive = component_matrices(exact, 0, 0, most=10)
    assert alive == 4
    norms = exact.model.weight(0)[:4].norm(dim=1)  # slot k writes row k; 4 and 5 are dead
    assert [title for title, _ in found] == [
        "weight",
        "weight delta",
        *map(str, norms.argsort(descending=True).tolist()),
    ]
    matrices = dict(found)
    np.testing.assert_allclose(matrices["weight"], exact.model.weight(0))
    np.testing.assert_allclose(matrices["weight delta"], 0.0, atol=1e-6)
    third = np.zeros((5, 7))
    third[2] = exact.model.weight(0)[2]
    np.testing.assert_allclose(matrices["2"], third, atol=1e-6)


def test_no_more_components_than_asked_for_and_none_that_is_negligible(exact):
    few, alive = component_matrices(exact, 0, 0, most=2)
    assert (len(few), alive) == (4, 4)
    exact.model.U[0][0, 1] *= 1e-3
    titles = [title for title, _ in component_matrices(exact, 0, 0, most=10)[0]]
    assert "1" not in titles
    assert len(titles) == 5


def test_a_component_of_several_slots_is_their_sum_and_counts_once(start, small_mlp, rows):
    method = start("apd", small_mlp, rows).eval().requires_grad_(False)  # 4 components of 2 slots
    method.settle([rows])
    V, U = method.model.V[0][0], method.model.U[0][0]
    for title, matrix in component_matrices(method, 0, 0, most=10)[0][2:]:
        own = slice(2 * int(title), 2 * int(title) + 2)
        np.testing.assert_allclose(matrix, V[:, own] @ U[own], rtol=1e-4, atol=1e-6)
    assert importance_spectra(method, [rows])["fc1"].largest.shape == (1, 4)
    assert lone_feature_importances(method, 5)["fc1"].shape == (1, 5, 4)


def test_alive_slots_of_a_component_stand_beside_each_other(exact, rows):
    exact.clusters = (ComponentView.of_groups([(0, 8), (1, 2, 3, 6, 7, 9)], {"fc1": 6, "head": 6}),) * 2
    found = co_importance(exact, rows.split(7), 0)
    assert found.names == ["fc1.0", "head.2", "fc1.1", "fc1.2", "fc1.3", "head.0", "head.1", "head.3"]
    assert found.sizes == [2, 6]


def test_co_importance_is_the_cosine_over_inputs(start, small_mlp, rows):
    method = start("spd", small_mlp, rows).eval().requires_grad_(False)
    method.clusters = (ComponentView.of_groups([range(12)], {"fc1": 6, "head": 6}),) * 2
    found = co_importance(method, rows.split(7), 1).together
    activity = method.activity(method.model.clean_forward(rows), rows)
    both = np.concatenate([activity[site][1].double().numpy() for site in ("fc1", "head")], axis=1)
    used = np.linalg.norm(both, axis=0) > 0
    wanted = (both.T @ both)[used][:, used] / np.outer(*[np.linalg.norm(both, axis=0)[used]] * 2)
    np.testing.assert_allclose(found[used][:, used], wanted, atol=1e-5)
    assert not found[~used].any()
