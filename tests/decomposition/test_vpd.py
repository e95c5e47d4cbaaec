"""VPD: two reconstructions a batch, sources that persist and ascend, routing by masks alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from madpipe.components.share import Share
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.subcomponent_config import Variant
from madpipe.decomposition.vpd import VPDConfig

TWO = (Variant(name="a"), Variant(name="b"))
ROWS = [torch.arange(60)] * 2
B, LATE = 16, 0.5  # rows of a batch; progress at which the rate of ascent has risen


@pytest.fixture
def method(start, small_mlp, rows):
    return start("vpd", small_mlp, rows, variants=TWO)


def batch_of(method, rows, step: int = 0):
    return replace(draw_batch(method, rows, ROWS, step, 0), progress=LATE)


def importances(value: float = 0.3) -> dict[str, torch.Tensor]:
    return {name: torch.full((2, B, 6), value) for name in ("fc1", "head")}


def sources(method) -> list[torch.Tensor]:
    return [leaf.detach() for leaf in method.sources.leaves()]


def test_the_loss_is_half_of_each_reconstruction_and_the_price(method, rows):
    terms = method.losses(batch_of(method, rows))
    assert set(terms) == {"total", "importance_minimality", "stochastic", "adversarial"}
    price = method.config.importance_coefficient * terms["importance_minimality"]
    torch.testing.assert_close(terms["total"], 0.5 * terms["stochastic"] + 0.5 * terms["adversarial"] + price)


@pytest.mark.parametrize("kind", ["stochastic", "adversarial"])
def test_a_reconstruction_without_coefficient_is_left_out(start, small_mlp, rows, kind):
    method = start("vpd", small_mlp, rows, variants=TWO, **{f"{kind}_coefficient": 0.0})
    before = sources(method)
    assert kind not in method.losses(batch_of(method, rows))
    moved = [not torch.equal(a, b) for a, b in zip(before, sources(method), strict=True)]
    assert moved == [kind == "stochastic"] * 2


def test_a_reconstruction_weighs_distance_as_its_variant_does(start, small_mlp, rows):
    variants = (Variant(name="a", distance_coefficient=0.0), Variant(name="b", distance_coefficient=3.0))
    method = start("vpd", small_mlp, rows, variants=variants)
    batch = batch_of(method, rows)
    masks = method._stochastic_masks(importances(), batch)
    terms = method._explain(batch, masks, {})
    wanted = terms["divergence"] + torch.tensor([0.0, 3.0]) * terms["distance"]
    torch.testing.assert_close(method._reconstruction(batch, masks), wanted)


# Routing


def routes(method, rows, step: int = 0) -> torch.Tensor:
    """Bool [sites, S, B]: whether an input's mask at a site is other than one everywhere."""
    masks = method._stochastic_masks(importances(), batch_of(method, rows, step)).values()
    assert all(((m.slots >= 0.3) & (m.slots <= 1)).all() and ((m.delta >= 0) & (m.delta <= 1)).all() for m in masks)
    return torch.stack([~((m.slots == 1).all(-1) & (m.delta == 1)) for m in masks])


def test_each_input_is_masked_at_one_or_both_of_two_sites(method, rows):
    counts = torch.cat([routes(method, rows, step).sum(0).flatten() for step in range(20)])
    assert set(counts.tolist()) == {1, 2}
    assert float((counts == 2).float().mean()) == pytest.approx(0.5, abs=0.08)  # of 640: 4 standard deviations


def test_an_input_that_is_routed_to_a_site_alone_reads_the_others_clean(method, rows):
    batch = batch_of(method, rows)
    masks = method._stochastic_masks(importances(), batch)
    first = routes(method, rows)
    only_head = ~first[0]
    assert only_head.any()
    masked = method.model.masked_forward(batch.x, masks)
    clean = batch.clean.site_inputs["head"]
    torch.testing.assert_close(masked.site_inputs["head"][only_head], clean[only_head])
    assert not torch.allclose(masked.site_inputs["head"][first[0]], clean[first[0]])


def test_without_routing_every_input_is_masked_at_every_site(start, small_mlp, rows):
    assert routes(start("vpd", small_mlp, rows, variants=TWO, routed=False), rows).all()


# Sources


def test_there_is_a_source_for_each_row_or_as_many_as_are_asked_for(start, small_mlp, rows):
    shapes = {
        count: [tuple(leaf.shape) for leaf in sources(start("vpd", small_mlp, rows, variants=TWO, sources=count))]
        for count in (None, 1, 3)
    }
    assert shapes == {None: [(2, B, 7)] * 2, 1: [(2, 1, 7)] * 2, 3: [(2, 3, 7)] * 2}  # 6 slots and the delta


def test_sources_stay_between_zero_and_one_and_move_with_every_step(method, rows):
    optimizer, seen = make_optimizer(method), [sources(method)]
    for step in range(3):
        take_step(method, optimizer, batch_of(method, rows, step), step)
        seen.append(sources(method))
    assert all(((source >= 0) & (source <= 1)).all() for source in seen[-1])
    assert not any(torch.equal(a[0], b[0]) for a, b in pairwise(seen))
    assert int(method.sources.ascents) == 9  # two before each of three steps, and one with it


def test_sources_ascend_what_is_descended(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows, variants=TWO)
    batch, fixed = batch_of(method, rows), importances()
    losses = torch.stack([method._attack(batch, fixed).detach() for _ in range(100)])
    assert (losses[-1] > 1.2 * losses[0]).all()


def test_sources_wait_while_faithfulness_warms_up(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows, variants=TWO, faithfulness_warmup=2)
    before = sources(method)
    assert set(method.losses(batch_of(method, rows))) == {"total", "faithfulness"}
    assert all(torch.equal(a, b) for a, b in zip(before, sources(method), strict=True))


def test_a_row_has_a_source_of_its_own(method, rows):
    batch = batch_of(method, rows)
    half = replace(batch, x=batch.x.view(2, B, -1)[:, : B // 2].flatten(0, 1), share=Share(0, 2))
    clean = batch.clean
    half = replace(
        half, clean=type(clean)(clean.output[:, : B // 2], {k: v[:, : B // 2] for k, v in clean.site_inputs.items()})
    )
    before = sources(method)
    method._attack(half, {name: g[:, : B // 2] for name, g in importances().items()})
    for old, new in zip(before, sources(method), strict=True):
        assert not torch.equal(old[:, : B // 2], new[:, : B // 2])
        assert torch.equal(old[:, B // 2 :], new[:, B // 2 :])


def test_importances_and_slots_learn_from_the_adversary_but_not_from_its_ascent(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows, variants=TWO, stochastic_coefficient=0.0, importance_coefficient=0.0)
    batch = batch_of(method, rows)
    terms = method.losses(batch)
    assert all(p.grad is None for p in method.parameters())
    terms["total"].sum().backward()
    assert all(bool((p.grad != 0).any()) for p in [*method.model.V, *method.model.U, *method.importance.parameters()])


# Settings


def test_the_importance_functions_gradient_is_clipped_alone(start, small_mlp, rows):
    method = start("vpd", small_mlp, rows, variants=TWO, importance_clip=1e-3, importance_coefficient=10.0)
    method.losses(batch_of(method, rows))["total"].sum().backward()
    slots = [V.grad.clone() for V in method.model.V]
    method.before_update(0)
    squares = sum(p.grad.flatten(1).square().sum(1) for p in method.importance.parameters())
    assert squares.sqrt().tolist() == pytest.approx([1e-3, 1e-3], rel=0.01)
    assert all(torch.equal(V.grad, kept) for V, kept in zip(method.model.V, slots, strict=True))


def test_one_importance_function_is_shared_by_all_sites_unless_told_otherwise():
    assert VPDConfig().importance_function == "shared"


def test_something_must_be_reconstructed():
    with pytest.raises(ValueError, match="both 0; set one above it"):
        VPDConfig(stochastic_coefficient=0.0, adversarial_coefficient=0.0)


@pytest.mark.parametrize(
    "key", ["source_steps", "source_rate", "sources", "adversarial_coefficient", "importance_clip"]
)
def test_limits_are_refused(key):
    with pytest.raises(ValueError, match=key):
        VPDConfig(**{key: -1})
