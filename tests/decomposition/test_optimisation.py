"""One step: seeded draws, independent instances, refused divergence."""

import math

import pytest
import torch

from madpipe.decomposition.optimisation import (
    clip_per_instance,
    draw_batch,
    make_optimizer,
    refuse_broken_parameters,
    refuse_divergence,
    step_generator,
    take_step,
)
from madpipe.errors import DivergedError

METHODS = ("spd", "apd")
EVERY_ROW = [torch.arange(60)] * 2


@pytest.fixture(params=METHODS)
def method(request, start, small_mlp, rows):
    return start(request.param, small_mlp, rows, instances=2)


def steps(method, rows, count: int = 4, seed: int = 0) -> None:
    optimizer = make_optimizer(method)
    for step in range(count):
        take_step(method, optimizer, draw_batch(method, rows, EVERY_ROW, step, seed), step)


def parameters(method) -> list[torch.Tensor]:
    return [p.detach().clone() for p in method.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(start, small_mlp, rows, name: str):
    runs = []
    for _ in range(2):
        method = start(name, small_mlp, rows, instances=2)
        steps(method, rows)
        runs.append(parameters(method))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_gives_another_run(start, small_mlp, rows, name: str):
    runs = []
    for seed in range(2):
        method = start(name, small_mlp, rows, instances=2)
        steps(method, rows, seed=seed)
        runs.append(parameters(method))
    assert not all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_step_draws_the_same_whatever_was_drawn_before():
    first = torch.rand(3, generator=step_generator(5, 7))
    torch.rand(100)
    assert torch.equal(torch.rand(3, generator=step_generator(5, 7)), first)


def test_steps_and_seeds_draw_apart():
    draws = {float(torch.rand((), generator=step_generator(seed, step))) for seed in range(10) for step in range(10)}
    assert len(draws) == 100


def test_a_batch_depends_on_its_seed_and_step_alone(method, rows):
    first, again = (draw_batch(method, rows, EVERY_ROW, 3, 0).x for _ in range(2))
    later, other = draw_batch(method, rows, EVERY_ROW, 4, 0).x, draw_batch(method, rows, EVERY_ROW, 3, 1).x
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_a_batch_holds_rows_of_its_instance_alone(start, small_mlp, rows):
    method = start("spd", small_mlp, rows, input_noise=0.0)
    own = [torch.arange(10), torch.arange(40, 60)]
    batch = draw_batch(method, rows, own, 3, 0)
    for s, x in enumerate(batch.x.chunk(2)):
        found = {tuple(row) for row in x.tolist()}
        assert found <= {tuple(row) for row in rows[own[s]].tolist()}


def test_noise_is_a_share_of_each_inputs_own_spread(start, small_mlp):
    rows = torch.randn(60, 5) * torch.tensor([0.0, 1.0, 10.0, 1.0, 1.0])
    method = start("spd", small_mlp, rows, input_noise=0.1, batch_size=4000)
    noise = draw_batch(method, rows[:1], [torch.zeros(1, dtype=torch.long)] * 2, 0, 0).x - rows[:1]
    torch.testing.assert_close(noise.std(0), 0.1 * rows.std(0), rtol=0.1, atol=1e-6)


def test_the_clean_pass_of_a_batch_is_that_of_the_target(method, rows):
    batch = draw_batch(method, rows, EVERY_ROW, 0, 0)
    assert torch.equal(batch.clean.output.flatten(0, 1), method.model.target(batch.x))


def test_a_step_leaves_the_target(method, rows):
    before = {key: value.clone() for key, value in method.model.target.state_dict().items()}
    steps(method, rows)
    assert all(torch.equal(value, before[key]) for key, value in method.model.target.state_dict().items())


def test_one_instances_gradient_does_not_depend_on_the_others_parameters(method, rows):
    batch = draw_batch(method, rows, EVERY_ROW, 0, 0)

    def gradients() -> list[torch.Tensor]:
        method.zero_grad()
        generator = step_generator(0, 1)
        method.losses(type(batch)(batch.x, batch.clean, generator, 0.0))["total"].sum().backward()
        return [p.grad[0].clone() for p in method.parameters() if p.grad is not None]

    before = gradients()
    with torch.no_grad():
        for p in method.parameters():
            if p.requires_grad:
                p[1] += torch.randn_like(p[1])
    assert all(torch.equal(a, b) for a, b in zip(gradients(), before, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_an_instance_trains_alike_whatever_trains_beside_it(start, small_mlp, rows, name: str):
    runs = []
    for neighbour in (1.0, 30.0):
        method = start(name, small_mlp, rows, instances=2)
        with torch.no_grad():
            for p in method.parameters():
                if p.requires_grad:
                    p[1] *= neighbour
        steps(method, rows, count=6)
        runs.append([p[0] for p in parameters(method)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def set_gradients(method, sizes: list[float]) -> None:
    for p in method.parameters():
        if p.requires_grad:
            p.grad = torch.ones_like(p) * torch.tensor(sizes).view(-1, *[1] * (p.ndim - 1))


def norms(method) -> torch.Tensor:
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()


def test_a_large_gradient_is_clipped_within_its_instance(method):
    set_gradients(method, [1e-4, 1e3])
    small = float(norms(method)[0])
    clip_per_instance(method, 1.0)
    assert norms(method).tolist() == pytest.approx([small, 1.0])


def test_clipping_keeps_the_direction(method):
    for p in method.parameters():
        if p.requires_grad:
            p.grad = torch.randn_like(p) * 10
    before = torch.cat([p.grad[0].flatten() for p in method.parameters() if p.grad is not None])
    clip_per_instance(method, 1.0)
    after = torch.cat([p.grad[0].flatten() for p in method.parameters() if p.grad is not None])
    torch.testing.assert_close(after * before.norm(), before, rtol=1e-4, atol=1e-4)


def test_terms_are_those_before_the_update_and_carry_no_graph(method, rows):
    batch = draw_batch(method, rows, EVERY_ROW, 0, 0)
    terms = take_step(method, make_optimizer(method), batch, 0)
    assert {"total"} < set(terms)
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_target_with_a_layer_of_zeros_can_be_decomposed(start, small_mlp, rows, name: str):
    small_mlp.head.weight.data.zero_()
    method = start(name, small_mlp, rows, instances=2)
    batch = draw_batch(method, rows, EVERY_ROW, 0, 0)
    assert all(value.isfinite().all() for value in take_step(method, make_optimizer(method), batch, 0).values())


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_steps_on_a_gpu_follow_those_on_the_cpu(start, small_mlp, rows, name: str):
    states = []
    for device in ("cpu", "cuda"):
        method = start(name, small_mlp, rows, instances=2).to(device)
        steps(method, rows, count=30)
        states.append([p.cpu() for p in parameters(method)])
    for on_cpu, on_gpu in zip(*states, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=0.05, atol=0.02)


def terms_of(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([1.0, value]) for name, value in values.items()}


def bfloat16_steps(method, rows, dtype, count: int = 10) -> torch.optim.Optimizer:
    optimizer = make_optimizer(method)
    for step in range(count):
        take_step(method, optimizer, draw_batch(method, rows, EVERY_ROW, step, 0), step, dtype)
    return optimizer


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_follows_float32_within_its_precision(start, small_mlp, rows, name: str):
    runs = []
    for dtype in (None, torch.bfloat16):
        method = start(name, small_mlp, rows, instances=2)
        bfloat16_steps(method, rows, dtype)
        runs.append(torch.cat([p.flatten() for p in parameters(method)]))
    whole, half = runs
    assert not torch.equal(half, whole)
    assert float((half - whole).norm() / whole.norm()) < 0.05


@pytest.mark.parametrize("name", METHODS)
def test_under_bfloat16_parameters_and_the_optimisers_state_stay_float32(start, small_mlp, rows, name: str):
    method = start(name, small_mlp, rows, instances=2)
    optimizer = bfloat16_steps(method, rows, torch.bfloat16, count=2)
    assert {value.dtype for value in parameters(method)} == {torch.float32}
    assert {value.dtype for state in optimizer.state.values() for value in state.values()} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_steps_run_on_a_gpu(start, small_mlp, rows, name: str):
    method = start(name, small_mlp, rows, instances=2).to("cuda")
    bfloat16_steps(method, rows, torch.bfloat16)
    assert all(p.isfinite().all() for p in parameters(method))


def test_under_bfloat16_products_are_taken_in_it(start, small_mlp, rows, monkeypatch):
    method = start("spd", small_mlp, rows, instances=2)
    seen = []
    explain = method.model.masked_forward

    def masked_forward(x, masks, *known, **options):
        if masks:
            seen.append(explain(x, masks, *known, **options).output.dtype)
        return explain(x, masks, *known, **options)

    monkeypatch.setattr(method.model, "masked_forward", masked_forward)
    bfloat16_steps(method, rows, torch.bfloat16, count=1)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_divergence_names_the_first_step_and_its_term(bad: float):
    history = [terms_of(total=1.0, hidden=1.0), terms_of(total=bad, hidden=bad), terms_of(total=bad, divergence=bad)]
    with pytest.raises(DivergedError, match="'hidden' is not finite at step 121; lower decomposition.learning_rate"):
        refuse_divergence(history, 120)


def test_divergence_of_the_total_alone_names_the_total():
    with pytest.raises(DivergedError, match="'total'"):
        refuse_divergence([terms_of(total=math.nan, hidden=1.0)], 1)


def test_finite_terms_are_not_refused():
    refuse_divergence([terms_of(total=1e30, hidden=-0.0)], 1)


def test_a_parameter_that_is_not_finite_is_named(method):
    refuse_broken_parameters(method, 7)
    method.model.U[1].data[0, 0, 0] = math.inf
    with pytest.raises(DivergedError, match="parameter 'model.U.1' is not finite after step 7"):
        refuse_broken_parameters(method, 7)
