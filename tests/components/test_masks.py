"""Three ways to say the same mask, and what each end of it means."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from madpipe.components.masks import (
    FixedWeights,
    InputMask,
    SharedMask,
    clean_elsewhere,
    stochastic_mask,
    uniform_subsets,
)


def random_slots(case) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(case.instances, k, generator=generator) for k in case.model.slots]


def run(case, masks):
    return case.model.masked_forward(case.repeated(), masks).output


def shared(case, delta: float = 0.0):
    return {s.name: SharedMask(m, delta) for s, m in zip(case.model.sites, random_slots(case), strict=True)}


def per_input(case, delta: float | None = None):
    B = len(case.x)
    return {
        site.name: InputMask(
            slots[:, None].repeat(1, B, 1), None if delta is None else torch.full((case.instances, B), delta)
        )
        for site, slots in zip(case.model.sites, random_slots(case), strict=True)
    }


def fixed(case, delta: float = 0.0):
    return {
        site.name: FixedWeights(case.model.masked_weight(i, slots, delta))
        for i, (site, slots) in enumerate(zip(case.model.sites, random_slots(case), strict=True))
    }


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_shared_mask_is_the_same_mask_for_every_input(case):
    assert_near(run(case, per_input(case)), run(case, shared(case)))


def test_a_shared_delta_is_the_same_delta_for_every_input(case):
    assert_near(run(case, per_input(case, 0.3)), run(case, shared(case, 0.3)))


def test_fixed_weights_are_a_shared_mask_rebuilt_once(case):
    assert torch.equal(run(case, fixed(case, 0.3)), run(case, shared(case, 0.3)))


def test_a_removed_delta_is_a_delta_of_zero(case):
    assert_near(run(case, per_input(case)), run(case, per_input(case, 0.0)))


def test_a_mask_may_be_given_at_every_position(case):
    clean, masks = case.model.clean_forward(case.x), per_input(case)
    for i, site in enumerate(case.model.sites):
        positions = case.model.operation(i).inner(clean.site_inputs[site.name][0], case.model.V[i][:1]).shape[2:-1]
        slots = masks[site.name].slots
        spread = slots.view(*slots.shape[:2], *[1] * len(positions), -1).expand(*slots.shape[:2], *positions, -1)
        masks[site.name] = InputMask(spread)
    assert_near(run(case, masks), run(case, shared(case)))


def test_a_mask_at_one_position_leaves_the_others(random_model):
    model = random_model(nn.Sequential(nn.Linear(3, 2)), 4, 1)
    x = torch.randn(5, 6, 3)
    whole, gated = torch.ones(1, 5, 6, 4), torch.ones(1, 5, 6, 4)
    gated[:, :, 2] = 0.0
    before, after = (model.masked_forward(x, {"0": InputMask(slots)}).output[0] for slots in (whole, gated))
    changed = (before != after).any(-1)
    assert changed[:, 2].all()
    assert changed.sum() == 5


@pytest.mark.parametrize("site", ["0", "2"])
def test_nothing_on_and_no_delta_leaves_the_bias(random_model, site):
    model = random_model(nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(12, 4)), 5, 2)
    x = torch.randn(2, 1, 3, 3)
    output = model.masked_forward(x.repeat(2, 1, 1, 1), {site: SharedMask(torch.zeros(2, 5))}).output
    biases = model.target[0].bias[:, None].expand(3, 4).reshape(1, 12)  # each channel's bias at 2 x 2 positions
    wanted = model.target[2](biases) if site == "0" else model.target[2].bias
    torch.testing.assert_close(output, wanted.expand(2, 2, 4))


def test_instances_do_not_see_one_another(case):
    masks = shared(case)
    together = run(case, masks)
    for i in range(len(case.model.sites)):
        case.model.V[i].data[1:] = 7.0
    assert torch.equal(run(case, masks)[0], together[0])


def test_an_input_does_not_see_the_masks_of_the_others(case):
    masks = per_input(case, 0.5)
    together = run(case, masks)
    for mask in masks.values():
        mask.slots[:, 1:] = 0.0
    assert_near(run(case, masks)[:, 0], together[:, 0])


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), st.integers(0, 2**31))
def test_a_stochastic_mask_lies_between_the_importance_and_one(importance: list[float], seed: int):
    g = torch.tensor(importance)
    m = stochastic_mask(g, torch.Generator().manual_seed(seed))
    assert ((m >= g - 1e-7) & (m <= 1)).all()  # 1e-7: rounding of g + (1 - g) r


def test_an_importance_of_one_is_a_mask_of_one():
    assert torch.equal(stochastic_mask(torch.ones(100), torch.Generator().manual_seed(0)), torch.ones(100))


def test_an_importance_of_zero_is_a_uniform_mask():
    m = stochastic_mask(torch.zeros(20_000), torch.Generator().manual_seed(0))
    assert abs(float(m.mean()) - 0.5) < 0.01
    assert abs(float(m.var()) - 1 / 12) < 0.002


def test_a_cpu_generator_serves_importances_on_any_device():
    # "meta" stands for a device whose randomness is not the CPU's
    assert stochastic_mask(torch.zeros(3, device="meta"), torch.Generator()).device.type == "meta"


def test_the_gradient_of_a_stochastic_mask_is_one_minus_the_draw():
    g = torch.full((50,), 0.25, requires_grad=True)
    m = stochastic_mask(g, torch.Generator().manual_seed(0))
    m.sum().backward()
    r = (m.detach() - 0.25) / 0.75
    torch.testing.assert_close(g.grad, 1 - r)


def test_inputs_elsewhere_run_clean_and_the_others_under_their_mask(case):
    here = torch.rand(case.instances, len(case.x), generator=torch.Generator().manual_seed(2)) < 0.5
    assert here.any()
    assert not here.all()
    masks = per_input(case, 0.3)
    mixed = run(case, {name: clean_elsewhere(mask, here) for name, mask in masks.items()})
    clean = case.model.masked_forward(case.repeated(), {}).output
    assert_near(mixed[here], run(case, masks)[here])
    assert_near(mixed[~here], clean[~here])


def test_a_removed_delta_stays_removed_where_a_mask_holds(case):
    here = torch.ones(case.instances, len(case.x), dtype=torch.bool)
    assert_near(
        run(case, {k: clean_elsewhere(m, here) for k, m in per_input(case).items()}), run(case, per_input(case))
    )


def test_subsets_are_of_every_size_alike_and_of_every_site_alike():
    drawn = uniform_subsets(4, (50, 200), torch.Generator().manual_seed(0))
    assert drawn.shape == (4, 50, 200)
    sizes = drawn.sum(0).flatten().bincount(minlength=5) / 10_000
    assert sizes.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.02)  # 4 standard deviations
    assert drawn.flatten(1).float().mean(1).tolist() == pytest.approx([0.625] * 4, abs=0.02)  # mean of k / 4
