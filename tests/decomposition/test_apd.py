"""APD: the batch's top k, thresholds learned from trusted data, activity that is batch-free."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madpipe.decomposition.apd import batch_top_k
from madpipe.decomposition.attributions import own_attributions
from madpipe.decomposition.optimisation import draw_batch


@given(S=st.integers(1, 3), B=st.integers(1, 8), C=st.integers(1, 8), k=st.floats(0.05, 10))
def test_a_batchs_top_k_has_exactly_k_pairs_per_input_on_average(S: int, B: int, C: int, k: float):
    mask = batch_top_k(torch.rand(S, B, C), k)
    assert mask.sum((1, 2)).tolist() == [min(max(int(k * B), 1), B * C)] * S


def test_a_batchs_top_k_are_the_largest_pairs_of_each_instance():
    attributions = torch.rand(2, 6, 5)
    mask = batch_top_k(attributions, 1.5)  # 1.5 * 6 = 9 pairs
    for s in range(2):
        chosen, left = attributions[s][mask[s] == 1], attributions[s][mask[s] == 0]
        assert len(chosen) == 9
        assert chosen.min() > left.max()


def test_an_input_may_have_more_components_than_k():
    attributions = torch.tensor([[[5.0, 4.0, 3.0], [0.1, 0.2, 0.3]]])
    assert batch_top_k(attributions, 1.5).tolist() == [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]


@pytest.fixture
def settled(start, small_mlp, rows):
    method = start("apd", small_mlp, rows).eval().requires_grad_(False)
    method.settle(rows.split(16))
    return method


def active(method, x: torch.Tensor) -> torch.Tensor:
    """[S, B, C], from the first site."""
    activity = method.activity(method.model.clean_forward(x), x)
    return next(iter(activity.values())).unflatten(-1, (-1, method.config.rank))[..., 0]


def test_about_top_k_components_are_active_per_trusted_input(settled, rows):
    # a quantile of 60 x 4 attributions: within one pair of 1.5 * 60
    assert abs(float(active(settled, rows).sum()) - 1.5 * len(rows)) <= 1


def test_activity_is_one_or_zero(settled, rows):
    assert set(active(settled, rows).unique().tolist()) == {0.0, 1.0}


def test_activity_does_not_depend_on_the_rest_of_the_batch(settled, rows):
    together = active(settled, rows)
    alone = torch.cat([active(settled, row[None]) for row in rows], 1)
    assert torch.equal(alone, together)


def test_a_component_is_on_or_off_at_all_its_slots_of_all_sites(settled, rows):
    activity = settled.activity(settled.model.clean_forward(rows), rows)
    slots = torch.stack([g.unflatten(-1, (-1, settled.config.rank)) for g in activity.values()])
    assert torch.equal(slots, slots[:1, ..., :1].expand_as(slots))


def test_alive_components_are_those_active_on_some_trusted_input(settled, rows):
    somewhere = active(settled, rows).amax(1) > 0
    for i in range(len(settled.model.sites)):
        assert torch.equal(settled.alive(i), somewhere.repeat_interleave(settled.config.rank, 1))


def test_chunks_do_not_matter_to_the_threshold(start, small_mlp, rows):
    thresholds = []
    for size in (7, 60):
        method = start("apd", small_mlp, rows).requires_grad_(False)
        method.settle(rows.split(size))
        thresholds.append(method.threshold)
    torch.testing.assert_close(*thresholds)


def test_a_component_owns_rank_slots_of_every_site(settled):
    assert settled.model.slots == (8, 8)  # 4 components of rank 2
    assert settled.component_names() == [f"component.{c}" for c in range(4)]


def test_the_start_has_the_size_it_was_asked_for(start, small_mlp, rows):
    method = start("apd", small_mlp, rows, components=400, rank=1, initial_scale=0.1)
    for i in range(2):
        # expected |sum of K slots|^2 = K * O * (0.1 |W|)^2 / (K * O), whatever the unit vectors V
        size = method.model.component_sum(i).detach().norm() / method.model.weight(i).norm()
        assert float(size) == pytest.approx(0.1, rel=0.25)


def test_simplicity_of_the_weights_own_singular_vectors_is_one(start, small_mlp, rows):
    """Component 0 is the whole weight, always active: its Schatten energy over the weight's."""
    method = start("apd", small_mlp, rows, components=1, rank=7).requires_grad_(False)
    for i in range(2):
        left, values, right = torch.linalg.svd(method.model.weight(i), full_matrices=False)
        method.model.V[i].zero_()[0, :, : len(values)] = left
        method.model.U[i].zero_()[0, : len(values)] = values[:, None] * right
        assert float(method._simplicity(i, torch.ones(1, 4, 1))) == pytest.approx(1.0, rel=1e-3)


def test_minimality_vanishes_when_every_component_is_on_and_they_sum_to_the_weights(start, small_mlp, rows):
    method = start("apd", small_mlp, rows, components=1, rank=7, top_k=1.0).requires_grad_(False)
    for i in range(2):
        method.model.V[i].zero_()[0, : method.model.sites[i].d_in] = torch.eye(method.model.sites[i].d_in, 7)
        method.model.U[i].zero_()[0, : method.model.sites[i].d_in] = method.model.weight(i)
    terms = method.losses(draw_batch(method, rows, [torch.arange(60)], 0, 0))
    for name in ("faithfulness", "minimality", "hidden"):
        assert float(terms[name].max()) < 1e-6


def test_each_instance_has_a_top_k_of_its_own():
    attributions = torch.rand(3, 6, 5)
    together = batch_top_k(attributions, torch.tensor([0.5, 1.5, 4.0]))
    alone = [batch_top_k(attributions[[s]], k) for s, k in enumerate((0.5, 1.5, 4.0))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize(("target", "inputs"), [("small_mlp", "rows"), ("small_cnn", "images")])
def test_own_attributions_are_those_of_each_instance_on_its_own_part_of_a_batch(start, request, target, inputs):
    x = request.getfixturevalue(inputs)
    method = start("apd", request.getfixturevalue(target), x, instances=3).requires_grad_(False)
    own = own_attributions(method.model, x, method.config.rank)
    expected = torch.stack([method.attributions(part)[s] for s, part in enumerate(x.chunk(3))])
    torch.testing.assert_close(own, expected)


def test_the_number_of_components_may_follow_the_targets_size(start, small_mlp, rows):
    # the larger rank is min(5, 7) = 5: 8 * 5
    assert len(start("apd", small_mlp, rows, components=None).component_names()) == 40
