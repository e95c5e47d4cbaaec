"""APD: the batch's top k, thresholds learned from trusted data, activity that is batch-free."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madpipe.components.sites import find_sites
from madpipe.config.resolving import validated
from madpipe.decomposition.active_components import batch_top_k, top_k
from madpipe.decomposition.apd import APD, APDConfig
from madpipe.decomposition.component_attributions import squared_attributions
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.errors import ConfigError, ContentError


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


def test_of_equal_pairs_the_first_are_taken():
    attributions = torch.tensor([[[1.0, 2.0], [1.0, 1.0], [3.0, 1.0]]])
    assert batch_top_k(attributions, 4 / 3).int().tolist() == [[[1, 1], [1, 0], [1, 0]]]


def test_inputs_that_are_not_listed_count_for_the_top_k():
    attributions = torch.tensor([[[4.0, 1.0], [3.0, 2.0]]])
    assert batch_top_k(attributions, 0.5, inputs=6).int().tolist() == [[[1, 0], [1, 1]]]  # 0.5 * 6 = 3 pairs


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
    method = start("apd", small_mlp, rows, components=1, rank=7, top_k=1.0).requires_grad_(False)
    for i in range(2):
        left, values, right = torch.linalg.svd(method.model.weight(i), full_matrices=False)
        method.model.V[i].zero_()[0, :, : len(values)] = left
        method.model.U[i].zero_()[0, : len(values)] = values[:, None] * right
    assert float(method._faithfulness_and_simplicity(torch.ones(1, 1))[1]) == pytest.approx(1.0, rel=1e-3)


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
    own = squared_attributions(method.model, x, method.config.rank, method.config.how, own=True).sqrt()
    expected = torch.stack([method.attributions(part)[s] for s, part in enumerate(x.chunk(3))])
    torch.testing.assert_close(own, expected)


def test_the_number_of_components_may_follow_the_targets_size(start, small_mlp, rows):
    # the larger rank is min(5, 7) = 5: 8 * 5
    assert len(start("apd", small_mlp, rows, components=None).component_names()) == 40


def lp(start, target, rows, **settings):
    return start("apd", target, rows, **({"selection": "lp", "top_k": None} | settings))


def exact(start, target, rows, **settings):
    return start("apd", target, rows, **({"selection": "top_k", "top_k": 2} | settings))


@pytest.mark.parametrize("selected", [exact, lp])
@pytest.mark.parametrize("attribution", ["gradient", "integrated_gradients", "ablation"])
def test_activity_does_not_depend_on_the_batch_however_components_are_chosen(
    start, small_mlp, rows, selected, attribution
):
    method = selected(start, small_mlp, rows, attribution=attribution).eval().requires_grad_(False)
    method.settle(rows.split(16))
    together = active(method, rows)
    assert torch.equal(torch.cat([active(method, row[None]) for row in rows], 1), together)
    assert 0 < float(together.mean()) < 1


def test_an_exact_top_k_is_exact_for_each_input(start, small_mlp, rows):
    method = exact(start, small_mlp, rows).requires_grad_(False)
    assert active(method, rows).sum(2).unique().tolist() == [2.0]


def test_an_exact_top_k_are_the_largest_of_each_input():
    attributions = torch.tensor([[[5.0, 4.0, 3.0], [0.1, 0.2, 0.3]]])
    assert top_k(attributions, 2).tolist() == [[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]]


def test_a_priced_component_is_active_above_a_share_of_the_largest_attribution(start, small_mlp, rows):
    method = lp(start, small_mlp, rows).requires_grad_(False)
    method.settle(rows.split(16))
    attributions = method.attributions(rows)
    assert torch.equal(active(method, rows), (attributions > 0.05 * attributions.max()).float())


def test_a_top_k_beside_the_price_places_the_threshold(start, small_mlp, rows):
    method = lp(start, small_mlp, rows, top_k=1.5).requires_grad_(False)
    method.settle(rows.split(16))
    assert abs(float(active(method, rows).sum()) - 1.5 * len(rows)) <= 1


def test_the_price_is_the_sum_of_powers_of_attributions_and_moves_the_slots(start, small_mlp, rows):
    method = lp(start, small_mlp, rows, lp_exponent=0.5)
    terms = method.losses(draw_batch(method, rows, [torch.arange(60)], 0, 0))
    drawn = draw_batch(method, rows, [torch.arange(60)], 0, 0).x
    scaled = method.attributions(drawn) / method.statistics.metric.variance**0.5
    torch.testing.assert_close(terms["minimality"], scaled.sqrt().sum(2).mean(1))
    terms["minimality"].sum().backward()
    assert all(float(U.grad.abs().sum()) > 0 for U in method.model.U)


def test_the_price_weighs_singular_values_inside_the_schatten_power(start, small_mlp, rows):
    """mean_x sum_c sum_m (|A_c|^p |U_cm|^2 |V_cm|^2)^(q/2) over the weight's own energy."""
    method = lp(start, small_mlp, rows, schatten_exponent=0.7).requires_grad_(False)
    x = draw_batch(method, rows, [torch.arange(60)], 0, 0)
    prices = (method.attributions(x.x) / method.statistics.metric.variance**0.5).pow(0.9)
    wanted = []
    for i in range(len(method.model.sites)):
        sizes = method.model.U[i].square().sum(2) * method.model.V[i].square().sum(1)
        energy = (
            (prices[..., None] * sizes.unflatten(1, (-1, method.config.rank))[:, None]).pow(0.35).sum((2, 3)).mean(1)
        )
        wanted.append(energy / torch.linalg.svdvals(method.model.weight(i)).pow(0.7).sum())
    torch.testing.assert_close(method.losses(x)["simplicity"], torch.stack(wanted).mean(0))


@pytest.mark.parametrize("selected", [exact, lp])
def test_training_lowers_the_total_however_components_are_chosen(start, small_mlp, rows, selected):
    method = selected(start, small_mlp, rows, alive_share=0.0, batch_size=60, input_noise=0.0, steps=150)
    optimizer, totals = make_optimizer(method), []
    for step in range(150):
        terms = take_step(method, optimizer, draw_batch(method, rows, [torch.arange(60)], step, 0), step)
        totals.append(float(terms["total"]))
    assert sum(totals[-10:]) < 0.8 * sum(totals[:10])


@pytest.mark.parametrize(("step", "left"), [(0, 1.0), (50, 1.0), (80, 0.5), (99, 0.025)])
def test_simplicity_may_fall_to_zero_on_the_last_steps(start, small_mlp, rows, step, left):
    # of 100 steps the last 40: at 80, half of them are left
    method = start("apd", small_mlp, rows, steps=100, simplicity_anneal=0.4, simplicity_coefficient=2.0)
    terms = method.losses(draw_batch(method, rows, [torch.arange(60)], step, 0))
    others = terms["faithfulness"] + terms["minimality"] + 0.1 * terms["hidden"]
    torch.testing.assert_close(terms["total"], others + 2 * left * terms["simplicity"])


WRONG = [
    ({"simplicity_anneal": -0.1}, "simplicity_anneal.*between 0 and 1"),
    ({"components": 0}, "components.*at least 1"),
    ({"rank": 0}, "rank.*at least 1"),
    ({"components": 3, "top_k": 4}, "top_k is 4, more than the 3 components"),
    ({"top_k": 0}, "top_k.*above 0"),
    ({"selection": "top_k", "top_k": 1.5}, "top_k is 1.5, and selection: top_k needs a whole number"),
    ({"selection": "top_k", "top_k": None, "start": "sparse"}, "top_k is null, and selection: top_k"),
    ({"minimality_coefficient": -1}, "minimality_coefficient.*at least 0"),
    ({"simplicity_coefficient": float("nan")}, "simplicity_coefficient.*at least 0"),
    ({"schatten_exponent": 0}, "schatten_exponent.*above 0"),
    ({"lp_exponent": -0.5}, "lp_exponent.*above 0"),
    ({"alive_share": 1.5}, "alive_share.*between 0 and 1"),
    ({"attribution_steps": 0}, "attribution_steps.*at least 1"),
    ({"attribution": "ablation", "attribution_mode": "forward"}, "attribution_mode.*leave it out"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_cannot_be_meant_is_one_line_that_names_the_key(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        validated(APDConfig, settings, "x.yaml", "decomposition")
    assert "\n" not in str(error.value)


def test_more_active_components_than_the_target_gives_are_refused(small_mlp):
    # the larger rank is 5: 8 * 5 components
    with pytest.raises(ContentError, match=r"decomposition.top_k: 41 is more than the 40 components"):
        APD(small_mlp, find_sites(small_mlp), APDConfig(components=None, top_k=41), 1)
