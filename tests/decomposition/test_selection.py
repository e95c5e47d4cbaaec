"""Seeds trained side by side: each by itself is what it was among the others; the choice sees trusted rows alone."""

import pytest
import torch
from torch import nn

from madpipe.components.masks import InputMask
from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import draw_batch
from madpipe.decomposition.quality import quality, quality_by_seed
from madpipe.decomposition.selection import PRICE, best_seed, description_length, select_seed
from madpipe.registry import METHODS

SEEDS = 3
each_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def several(start, small_mlp, rows):
    """`several(name)`: a settled method with three seeds, as it starts."""

    def made(name: str) -> Method:
        variants = len(METHODS.load(name).variants(METHODS.load(name).Config()))
        method = start(name, small_mlp, rows, instances=SEEDS * variants, seeds=SEEDS)
        method.settle([rows])
        return method.eval().requires_grad_(False)

    return made


def masked(method: Method, x: torch.Tensor) -> torch.Tensor:
    """Outputs of x [B, I] under its own importances, [S, B, O]."""
    masks = {site: InputMask(g) for site, g in method.activity(method.model.clean_forward(x), x).items()}
    return method.model.masked_forward(x.repeat(method.model.instances, 1), masks).output


# One seed by itself


@each_method
def test_a_seed_by_itself_is_active_and_gives_outputs_as_among_the_others(several, rows, name):
    method = several(name)
    whole, variants = masked(method, rows), len(method.variant_names)
    for seed in range(SEEDS):
        alone = select_seed(method, seed)
        assert alone.model.instances == variants
        own = slice(seed * variants, (seed + 1) * variants)  # instance = seed * variants + variant
        torch.testing.assert_close(masked(alone, rows), whole[own])


@each_method
def test_alive_sets_are_those_of_the_seed(several, name):
    method, variants = several(name), len(several(name).variant_names)
    for i in range(2):
        method.alive(i).copy_(torch.arange(SEEDS * variants)[:, None] == variants)  # the first variant of seed 1 alone
    assert [bool(select_seed(method, seed).alive(0).any()) for seed in range(SEEDS)] == [False, True, False]
    assert select_seed(method, 1).alive(0).all(1).tolist() == [True] + [False] * (variants - 1)


@each_method
def test_what_has_no_axis_of_instances_is_copied(several, name):
    method = several(name)
    method.steps_done.fill_(17)
    alone = select_seed(method, 2)
    assert int(alone.steps_done) == 17
    target = method.model.target.state_dict()
    assert all(torch.equal(value, target[key]) for key, value in alone.model.target.state_dict().items())


@each_method
def test_a_seed_by_itself_is_frozen_and_says_that_it_is_one(several, name):
    method = several(name)
    alone = select_seed(method, 1)
    assert (method.seeds, alone.seeds, alone.config.seeds) == (SEEDS, 1, 1)
    assert alone.config.model_dump(exclude={"seeds"}) == method.config.model_dump(exclude={"seeds"})
    assert not alone.training
    assert not any(p.requires_grad for p in alone.parameters())


def test_a_seed_by_itself_shares_no_memory_with_the_others(several):
    method = several("spd")
    before = method.model.V[0].clone()
    select_seed(method, 0).model.V[0].zero_()
    assert torch.equal(method.model.V[0], before)


def test_precision_is_kept(several):
    assert select_seed(several("spd").double(), 1).model.V[0].dtype == torch.float64


def test_a_method_of_one_seed_is_its_seed_0(start, small_mlp, rows):
    method = start("spd", small_mlp, rows).eval().requires_grad_(False)
    before, after = method.state_dict(), select_seed(method, 0).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


# Seeds side by side


@each_method
def test_seeds_start_apart(several, name):
    method = several(name)
    starts = [select_seed(method, seed).model.V[0] for seed in range(SEEDS)]
    assert not any(torch.equal(starts[a], starts[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_seeds_have_batches_of_their_own(several, rows):
    method = several("spd")
    batch = draw_batch(method, rows, [torch.arange(len(rows))] * method.model.instances, step=0, seed=0)
    drawn = batch.x.view(method.model.instances, -1, 5)
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])


@each_method
def test_quality_by_seed_is_that_of_each_seed_and_its_mean_that_of_all(several, rows, name):
    method = several(name)
    seeds, whole = quality_by_seed(method, rows.split(16)), quality(method, rows.split(16))
    for seed, figures in enumerate(seeds):
        alone = quality(select_seed(method, seed), rows.split(16))
        for key in figures:
            if not key.startswith("reconstruction_stochastic"):  # drawn for all instances together
                assert figures[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), key
    for key in whole:
        assert whole[key] == pytest.approx(sum(figures[key] for figures in seeds) / SEEDS)


# The choice


@pytest.fixture
def exact(start, small_mlp, rows) -> Method:
    """Two seeds, slot k of which reads input k and writes row k of the weight; every importance is 1."""
    method = start("spd", small_mlp, rows, components=8, instances=4, seeds=2).eval().requires_grad_(False)
    for i, site in enumerate(method.model.sites):
        method.model.V[i].zero_()[:, :, : site.d_in] = torch.eye(site.d_in)
        method.model.U[i].zero_()[:, : site.d_in] = method.model.weight(i)
        method.importance[i].write.zero_()
        method.importance[i].bias.fill_(1.0)
    return method


def switch_off(method: Method, seed: int, slots: slice) -> None:
    """Importances of these slots become 0 at the head, for both variants of a seed."""
    method.importance[1].bias[2 * seed : 2 * seed + 2, :, slots] = -1.0


def test_a_length_is_divergence_plus_the_price_of_active_slots(exact, rows):
    lengths = best_seed(exact, [rows])[1]
    assert lengths == pytest.approx([1e-3 * 16] * 2, abs=1e-5)  # nothing diverges; 8 slots at each of 2 sites
    figures = {"reconstruction_importance/output": 0.5, "l0/output": 10.0}
    figures |= {"reconstruction_importance/hidden": 0.1, "l0/hidden": 30.0}
    assert description_length(exact, figures) == pytest.approx((0.5 + 0.01 + 0.1 + 0.03) / 2)


def test_of_equal_seeds_the_first_is_best(exact, rows):
    seed, lengths = best_seed(exact, [rows])
    assert lengths[0] == lengths[1]
    assert seed == 0


def test_a_seed_that_explains_as_much_with_less_is_best(exact, rows):
    switch_off(exact, 1, slice(7, 8))  # the head reads seven inputs: its last slot is empty
    seed, lengths = best_seed(exact, rows.split(16))
    assert seed == 1
    assert lengths[0] - lengths[1] == pytest.approx(1e-3, abs=1e-6)


def test_a_seed_that_leaves_out_what_the_output_needs_is_not_best(exact, rows):
    switch_off(exact, 1, slice(0, 8))
    assert best_seed(exact, [rows])[0] == 0


def test_the_price_is_the_methods_own(exact, rows):
    """Dear enough, and a seed with nothing on is the shortest."""
    switch_off(exact, 1, slice(0, 8))
    exact.config = exact.config.model_copy(update={"importance_coefficient": 100.0})
    assert best_seed(exact, [rows])[0] == 1


def test_a_method_without_an_importance_coefficient_pays_a_hundredth_of_a_nat(several):
    figures = {"reconstruction_importance/apd": 2.0, "l0/apd": 5.0}
    assert description_length(several("apd"), figures) == pytest.approx(2.0 + PRICE * 5.0)
    assert PRICE == 0.01


def test_choosing_leaves_the_method(exact, rows):
    before = {key: value.clone() for key, value in exact.state_dict().items()}
    best_seed(exact, [rows])
    assert all(torch.equal(value, before[key]) for key, value in exact.state_dict().items())
    assert isinstance(exact, nn.Module)
