"""The price of slots that a stated divergence asks for, on a simulated training and on a real one."""

import math

import pytest
import torch

from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.selection import PRICE, description_length
from madpipe.decomposition.sparsity import FIRST_PRICE, HIGHEST, LOWEST, SPEED, DivergenceController

STARTS = torch.tensor([1e-4, 1e-3, 1e-2, 1e-1])


def trained(
    controller: DivergenceController, updates: int, power: float = 1.0, lag: float = 0.05, noise: float = 0.3
) -> torch.Tensor:
    """A training whose log divergence goes to log(0.05 coefficient^power) within `lag` of it, seen through noise.

    Returns the divergences at its end. At power 1 a target of 1e-3 is met at the price 0.02.
    """
    generator = torch.Generator().manual_seed(0)
    level = (0.05 * controller.coefficient.pow(power)).log()
    for step in range(updates):
        progress = (step + 1) / updates
        wanted = (0.05 * controller.coefficient.pow(power)).log()
        level = level + (wanted - level) * min(1.0, 1 / (lag * updates))
        seen = (level + noise * torch.randn(level.shape, generator=generator)).exp()
        controller.update(seen, progress)
    return level.exp()


def controlled(target: float = 1e-3) -> DivergenceController:
    controller = DivergenceController(len(STARTS))
    controller.coefficient.copy_(STARTS)
    controller.target.fill_(target)
    return controller


@pytest.mark.parametrize("updates", [100, 2000])
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_every_first_price_ends_at_the_target(updates: int, power: float):
    controller = controlled()
    final = trained(controller, updates, power)
    assert final.tolist() == pytest.approx([1e-3] * 4, rel=0.25)
    wanted = (1e-3 / 0.05) ** (1 / power)
    assert controller.coefficient.tolist() == pytest.approx([wanted] * 4, rel=0.5)


def test_the_price_no_longer_swings_at_the_end():
    controller = controlled()
    prices = []
    generator = torch.Generator().manual_seed(1)
    level = torch.full((4,), math.log(1e-3))
    for step in range(1000):
        level = level + ((0.05 * controller.coefficient).log() - level) / 50
        controller.update((level + 0.3 * torch.randn(4, generator=generator)).exp(), (step + 1) / 1000)
        prices.append(controller.coefficient.log().clone())
    last = torch.stack(prices[-100:])
    assert float((last.amax(0) - last.amin(0)).max()) < 0.1


def test_a_divergence_below_the_target_raises_the_price_and_one_above_lowers_it():
    controller = controlled()
    controller.update(torch.tensor([1e-5, 1e-5, 1e-1, 1e-1]), 0.01)
    up, down = (math.exp(sign * SPEED * 0.01) for sign in (1, -1))  # errors beyond e-fold count as e-fold
    slowed = 0.5 * (1 + math.cos(math.pi * 0.01))
    assert controller.coefficient.tolist() == pytest.approx(
        [1e-4 * up**slowed, 1e-3 * up**slowed, 1e-2 * down**slowed, 1e-1 * down**slowed], rel=1e-4
    )


def test_the_price_is_bounded():
    for target, bound in ((1e-9, LOWEST), (1e9, HIGHEST)):
        controller = controlled(target)
        for _ in range(100):
            controller.progress.fill_(0.0)  # ever again the beginning, where it is fastest
            controller.update(torch.ones(4), 0.02)
        assert controller.coefficient.tolist() == pytest.approx([bound] * 4)


def test_how_many_updates_a_training_has_does_not_matter():
    few, many = controlled(), controlled()
    for controller, updates in ((few, 50), (many, 1000)):
        for step in range(updates // 10):
            controller.update(torch.full((4,), 1e-5), (step + 1) / updates)
    torch.testing.assert_close(few.coefficient, many.coefficient, rtol=0.02, atol=0)


def test_a_controller_read_back_goes_on_as_it_was():
    whole, cut = controlled(), controlled()
    for step in range(20):
        whole.update(torch.full((4,), 2e-3 + 1e-4 * step), (step + 1) / 40)
        if step == 9:
            cut.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
        elif step > 9:
            cut.update(torch.full((4,), 2e-3 + 1e-4 * step), (step + 1) / 40)
    assert torch.equal(cut.coefficient, whole.coefficient)


def test_auto_moves_the_price_that_training_puts_on_importance(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, importance_coefficient="auto", mask_shares=[0.5, 0.0, 0.5], steps=40)
    optimizer = make_optimizer(method)
    for step in range(20):
        take_step(method, optimizer, draw_batch(method, rows, [torch.arange(60)] * 2, step, 0), step)
    assert torch.equal(method.importance_weight, method.controller.coefficient)
    assert not torch.equal(method.importance_weight, torch.full((2,), FIRST_PRICE))


def test_a_variant_with_a_price_of_its_own_keeps_it(start, small_mlp, rows):
    variants = [{"name": "own", "importance_coefficient": 0.05}, {"name": "found"}]
    method = start(
        "spd", small_mlp, rows, importance_coefficient="auto", variants=variants, mask_shares=[1.0, 0.0, 0.0], steps=40
    )
    optimizer = make_optimizer(method)
    for step in range(5):
        take_step(method, optimizer, draw_batch(method, rows, [torch.arange(60)] * 2, step, 0), step)
    assert float(method.importance_weight[0]) == pytest.approx(0.05)
    assert float(method.importance_weight[1]) != pytest.approx(FIRST_PRICE, rel=1e-3)


def test_the_default_target_is_a_share_of_what_leaving_every_slot_out_makes(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, importance_coefficient="auto")
    logits = small_mlp.head.bias  # both layers without their weights leave the last bias alone
    clean = torch.log_softmax(small_mlp(rows), -1)
    whole = (clean.exp() * (clean - torch.log_softmax(logits, -1))).sum(-1).mean()
    assert method.controller.target.tolist() == pytest.approx([1e-3 * float(whole)] * 2, rel=1e-4)


def test_a_stated_target_is_taken(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, importance_coefficient="auto", target_divergence=0.02)
    assert method.controller.target.tolist() == pytest.approx([0.02] * 2)


def test_seeds_of_found_prices_are_compared_at_one(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, importance_coefficient="auto")
    figures = {
        f"{key}/{name}": value
        for name in ("output", "hidden")
        for key, value in (("reconstruction_importance", 0.5), ("l0", 3.0))
    }
    assert description_length(method, figures) == pytest.approx(0.5 + 3 * PRICE)
