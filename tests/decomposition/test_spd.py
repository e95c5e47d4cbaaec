"""SPD: masks between importance and one, variants side by side, alive sets."""

from itertools import pairwise

import pytest
import torch

from madpipe.components.masks import InputMask, SharedMask
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, step_generator, take_step
from madpipe.decomposition.spd import SPDConfig
from madpipe.decomposition.subcomponent_config import Variant

ROWS = [torch.arange(60)] * 2


def batch_of(method, rows, step: int = 0):
    return draw_batch(method, rows, ROWS, step, 0)


@pytest.fixture
def method(start, small_mlp, rows):
    """Two instances: two variants of one start."""
    return start("spd", small_mlp, rows, variants=(Variant(name="a"), Variant(name="b", hidden_coefficient=1.0)))


def test_the_default_variants_have_names_of_their_own():
    names = [variant.name for variant in SPDConfig().variants]
    assert len(set(names)) == len(names) >= 1


@pytest.mark.parametrize(("d", "slots"), [(4, 32), (20, 40), (200, 128)])
def test_slots_are_twice_the_rank_within_bounds(start, rows, d: int, slots: int):
    target = torch.nn.Sequential(torch.nn.Linear(d, d)).requires_grad_(False)
    assert start("spd", target, torch.randn(20, d), components=None).model.slots == (slots,)


def test_names_of_components_are_those_of_their_sites(method):
    assert method.component_names() == [f"{site}.{k}" for site in ("fc1", "head") for k in range(6)]


def test_activity_is_an_importance_between_zero_and_one(method, rows):
    for g in method.activity(method.model.clean_forward(10 * rows), 10 * rows).values():
        assert g.shape == (2, 60, 6)
        assert ((g >= 0) & (g <= 1)).all()


def test_a_variants_coefficient_is_its_own_or_the_methods(start, small_mlp, rows):
    variants = (Variant(name="a"), Variant(name="b", parsimony_coefficient=0.5, hidden_coefficient=2.0))
    method = start("spd", small_mlp, rows, variants=variants, parsimony_coefficient=3.0)
    assert method.parsimony_weight.tolist() == [3.0, 0.5]
    assert method.hidden_weight.tolist() == [0.0, 2.0]


def test_hidden_residuals_are_evidence_where_hidden_activations_were_matched(start, small_mlp, rows):
    both = (Variant(name="a"), Variant(name="b", hidden_coefficient=1.0))
    assert start("spd", small_mlp, rows, variants=both).matches_hidden() == [False, True]
    assert start("spd", small_mlp, rows, variants=both[:1]).matches_hidden() == [True]  # rather than no evidence


def test_stochastic_masks_lie_between_importance_and_one(method, rows):
    importances = {name: torch.full((2, 16, 6), 0.3) for name in ("fc1", "head")}
    for step in range(10):
        for mask in method._stochastic_masks(importances, batch_of(method, rows, step)).values():
            assert ((mask.slots >= 0.3) & (mask.slots <= 1)).all()
            assert ((mask.delta >= 0) & (mask.delta <= 1)).all()


def test_stochastic_masks_leave_some_sites_clean_but_never_all(method, rows):
    importances = {name: torch.full((2, 16, 6), 0.3) for name in ("fc1", "head")}
    counts = [len(method._stochastic_masks(importances, batch_of(method, rows, step))) for step in range(40)]
    assert set(counts) == {1, 2}


def test_the_three_kinds_of_mask_are_drawn_with_their_shares(start, small_mlp, rows, monkeypatch):
    method = start("spd", small_mlp, rows, mask_shares=(0.2, 0.5, 0.3))
    kinds = {"pure": 0, "alive": 0, "stochastic": 0}
    passed = method.model.masked_forward

    def note(x, masks, known, **options):
        mask = next(iter(masks.values()), None)
        if isinstance(mask, SharedMask):
            kinds["alive"] += 1
        elif isinstance(mask, InputMask):
            kinds["pure" if mask.delta is None else "stochastic"] += 1
        return passed(x, masks, known, **options)

    batch = draw_batch(method, rows, ROWS, 0, 0)
    monkeypatch.setattr(method.model, "masked_forward", note)
    for step in range(300):
        method.losses(type(batch)(batch.x, batch.clean, step_generator(1, step), 0.0))
    # three binomials of 300: standard deviations 7 to 9
    assert kinds["pure"] == pytest.approx(60, abs=28)
    assert kinds["alive"] == pytest.approx(150, abs=35)
    assert kinds["stochastic"] == pytest.approx(90, abs=32)


def test_everything_counts_as_alive_until_enough_was_seen(method):
    method.recent_0.zero_()
    assert method._alive_now(0).all()
    method.after_step(method.config.alive_after)
    assert not method._alive_now(0).any()


def test_a_slot_stays_alive_while_its_recent_importance_is_above_the_threshold(method):
    method.recent_0.zero_()[:, 2] = 0.9
    method.after_step(method.config.alive_after)
    assert method._alive_now(0)[0].tolist() == [0, 0, 1, 0, 0, 0]


def test_recent_importance_is_a_decaying_maximum_over_batch_and_positions(method):
    method.recent_0.fill_(0.5)
    importance = torch.zeros(2, 4, 3, 6)
    importance[:, 1, 2, 0] = 0.9
    method._remember({"fc1": importance, "head": torch.zeros(2, 4, 6)})
    decayed = 0.5 * method.config.alive_decay
    assert method.recent_0[0].tolist() == pytest.approx([0.9] + [decayed] * 5)


def test_settling_keeps_slots_that_some_trusted_input_needs(method, rows):
    method.requires_grad_(False)
    method.importance[0].write.zero_()
    method.importance[0].bias.copy_(torch.tensor([1.0, 0.11, 0.1, 0.05, 0.0, -1.0]))
    method.settle(rows.split(16))
    assert method.alive(0)[0].tolist() == [True, True, False, False, False, False]


def test_a_start_at_the_weights_explains_trusted_outputs_from_the_start(method, rows):
    explained = method.model.masked_forward(rows.repeat(2, 1), method.all_slots_masks()).output
    clean = method.model.clean_forward(rows).output
    assert (explained - clean).abs().max() < 0.1 * clean.std()  # the span holds 99.9 % of the second moment


def test_layerwise_reconstruction_is_a_term_of_stochastic_batches(start, small_mlp, rows):
    settings = {"mask_shares": (0.0, 0.0, 1.0), "routed_share": 0.0}
    without = start("spd", small_mlp, rows, **settings)
    with_it = start("spd", small_mlp, rows, **settings, layerwise_coefficient=2.0)
    terms, more = without.losses(batch_of(without, rows)), with_it.losses(batch_of(with_it, rows))
    assert "layerwise" not in terms
    assert (more["layerwise"] > 0).all()
    torch.testing.assert_close(more["total"], terms["total"] + 2 * more["layerwise"])


def test_terms_that_no_variant_weighs_are_not_computed(start, small_mlp, rows):
    plain = Variant(name="a", distance_coefficient=0.0)
    for variants, wanted in (
        ((plain,), set()),
        ((plain, Variant(name="b")), {"distance"}),
        ((plain, Variant(name="b", distance_coefficient=0.0, hidden_coefficient=2.0)), {"hidden"}),
    ):
        method = start("spd", small_mlp, rows, instances=2, variants=variants)
        assert set(method.losses(batch_of(method, rows))) & {"distance", "hidden"} == wanted


@pytest.mark.parametrize("function", ["site", "slot"])
def test_known_readings_leave_loss_and_gradient_as_they_are(start, small_mlp, rows, monkeypatch, function: str):
    settings = {"mask_shares": (0.0, 0.0, 1.0), "layerwise_coefficient": 2.0, "importance_function": function}
    found = []
    for known in (True, False):
        method = start("spd", small_mlp, rows, **settings)
        if not known:
            passed = method.model.masked_forward
            monkeypatch.setattr(method.model, "masked_forward", lambda x, masks, *_, run=passed, **__: run(x, masks))
        method.losses(draw_batch(method, rows, ROWS, 0, 0))["total"].sum().backward()
        found.append([p.grad for p in method.parameters() if p.grad is not None])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_without_a_stochastic_delta_the_delta_is_left_out(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, stochastic_delta=False, routed_share=0.0)
    importances = {name: torch.full((2, 16, 6), 0.3) for name in ("fc1", "head")}
    masks = method._stochastic_masks(importances, batch_of(method, rows))
    assert [mask.delta for mask in masks.values()] == [None, None]


def test_faithfulness_alone_counts_while_it_warms_up(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, faithfulness_warmup=2)
    assert set(method.losses(batch_of(method, rows))) == {"total", "faithfulness"}
    method.after_step(1)
    assert "divergence" in method.losses(batch_of(method, rows))


def test_slots_stay_while_importances_warm_up(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, importance_warmup=1, mask_shares=(0.0, 0.0, 1.0))
    optimizer = make_optimizer(method)
    V, read = method.model.V[0].clone(), method.importance[0].read.clone()
    take_step(method, optimizer, batch_of(method, rows), 0)
    assert torch.equal(method.model.V[0], V)
    assert not torch.equal(method.importance[0].read, read)
    take_step(method, optimizer, batch_of(method, rows, 1), 1)
    assert not torch.equal(method.model.V[0], V)


def test_importances_warm_up_after_faithfulness_has(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, faithfulness_warmup=1, importance_warmup=1, mask_shares=(0.0, 0.0, 1.0))
    optimizer, seen = make_optimizer(method), [method.model.V[0].clone()]
    for step in range(3):
        take_step(method, optimizer, batch_of(method, rows, step), step)
        seen.append(method.model.V[0].clone())
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [False, True, False]


@pytest.mark.parametrize("penalty", ["lp", "smooth_l0"])
@pytest.mark.parametrize("function", ["site", "slot", "shared"])
def test_every_penalty_and_importance_function_trains(start, small_cnn, images, penalty, function):
    method = start(
        "spd",
        small_cnn,
        images,
        importance_penalty=penalty,
        importance_function=function,
        frequency_coefficient=0.1,
        mask_shares=(0.0, 0.0, 1.0),
    )
    optimizer = make_optimizer(method)
    terms = take_step(method, optimizer, draw_batch(method, images, [torch.arange(30)] * 2, 0, 0), 0)
    assert terms["total"].isfinite().all()
    assert (terms["frequency"] >= 0).all()
    assert all(p.isfinite().all() for p in method.parameters())


def test_a_sparse_start_leaves_spare_slots_small(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, start="sparse", components=None)
    assert method.model.slots == (40, 24)  # eight times ranks 5 and 3
    sizes = method.model.V[0].norm(dim=1) * method.model.U[0].norm(dim=2)
    assert (sizes < 0.01 * sizes.amax(1, keepdim=True)).any(1).all()
    left = method.model.delta(0).square().sum((1, 2)) / method.model.weight(0).square().sum()
    assert (left < 0.01).all()
