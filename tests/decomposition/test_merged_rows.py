"""Inputs without effect are computed once, and count as often as they were drawn."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel
from madpipe.components.sites import find_sites
from madpipe.decomposition.losses import per_instance_mean
from madpipe.decomposition.merged_rows import MergedRows, merge_zero_rows, silent_at_zero
from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.targets import residual_mlp, superposition

SETTINGS = {
    "mask_shares": (0.3, 0.3, 0.4),
    "layerwise_coefficient": 1.0,
    "importance_function": "slot",
    "input_noise": 0.0,
    "seeds": 2,
}


@pytest.fixture
def sparse_rows() -> Tensor:
    return torch.rand(60, 5) * (torch.rand(60, 5) < 0.15)


def model_of(target: nn.Module) -> ComponentModel:
    return ComponentModel(target, find_sites(target), [2] * len(find_sites(target)))


def test_rows_of_zeros_become_one_that_comes_last():
    x = torch.tensor([[[0.0, 0], [1, 0], [0, 0], [0, 2], [0, 0], [0, 0]]])
    merged = merge_zero_rows(x)
    assert merged.of(x)[0].tolist() == [[1, 0], [0, 2], [0, 0]]
    assert merged.weights[0].tolist() == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_instances_keep_equally_many_rows():
    x = torch.tensor([[[1.0], [0], [0], [0]], [[0], [3], [2], [0]]])
    merged = merge_zero_rows(x)
    assert merged.of(x).squeeze(2).tolist() == [[1, 0, 0], [3, 2, 0]]
    torch.testing.assert_close(merged.weights, torch.tensor([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]]))


def test_batches_come_in_few_sizes():
    sizes = {
        merge_zero_rows((torch.arange(1000) < count).float().view(1, 1000, 1)).index.shape[1] for count in range(900)
    }
    assert len(sizes) <= 64


@pytest.mark.parametrize("zeros", [0, 1])
def test_nothing_is_merged_where_that_saves_no_row(zeros: int):
    x = torch.ones(1, 5, 2)
    x[0, :zeros] = 0
    assert merge_zero_rows(x) is None


def test_a_row_of_the_smallest_number_is_no_row_of_zeros():
    x = torch.zeros(1, 4, 3)
    x[0, 2, 1] = -torch.finfo(x.dtype).smallest_normal
    assert merge_zero_rows(x).of(x)[0, 0, 1] < 0


def test_a_mean_is_that_over_all_rows_and_positions(sparse_rows):
    x = sparse_rows.view(2, 30, 5)
    values = torch.cat([x, x.square() + 1], 2).view(2, 30, 5, 2)
    merged = merge_zero_rows(x)
    assert merged.index.shape[1] < 30
    torch.testing.assert_close(merged.mean(merged.of(values)), per_instance_mean(values))


def test_only_a_network_whose_sites_all_read_zeros_is_silent(small_mlp):
    assert silent_at_zero(model_of(superposition.build(5, 2, identity=True)), torch.ones(5))
    assert silent_at_zero(model_of(residual_mlp.build(5, 3, 8)), torch.ones(5))
    assert not silent_at_zero(model_of(small_mlp), torch.ones(5))  # its head reads what the biases of fc1 leave


def test_a_site_that_reads_something_at_its_second_use_is_not_silent():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.fc(x)) + 1)

    assert not silent_at_zero(model_of(Twice()), torch.ones(5))


def trained(method: Method, rows: Tensor, merge: bool, steps: int = 8) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    optimizer, instances = make_optimizer(method), [torch.arange(60)] * method.model.instances
    method.__dict__["silent_at_zero"] = merge
    history = []
    for step in range(steps):
        batch = draw_batch(method, rows, instances, step, 0)
        assert (batch.merged is not None) == merge
        history.append(take_step(method, optimizer, batch, step))
    return [p for p in method.parameters() if p.requires_grad], history


@pytest.mark.parametrize("identity", [False, True])
def test_training_on_merged_rows_is_training_on_all(start, sparse_rows, identity: bool):
    target = superposition.build(5, 2, identity).eval().requires_grad_(False)
    runs = [
        trained(start("spd", target, sparse_rows, instances=4, **SETTINGS), sparse_rows, on) for on in (False, True)
    ]
    (whole, terms), (merged, same_terms) = runs
    torch.testing.assert_close(merged, whole, rtol=1e-3, atol=1e-5)
    for every, few in zip(terms, same_terms, strict=True):
        torch.testing.assert_close(few, every, rtol=1e-4, atol=1e-6)


def test_rows_are_not_merged_where_a_mean_stands_inside_a_function(start, sparse_rows):
    target = superposition.build(5, 2).eval().requires_grad_(False)
    method = start("spd", target, sparse_rows, **SETTINGS, frequency_coefficient=0.1)
    assert draw_batch(method, sparse_rows, [torch.arange(60)] * 2, 0, 0).merged is None


def test_a_row_draws_the_same_numbers_whether_or_not_others_are_merged(start, sparse_rows):
    target = superposition.build(5, 2).eval().requires_grad_(False)
    method = start("spd", target, sparse_rows, **SETTINGS)
    batch = draw_batch(method, sparse_rows, [torch.arange(60)] * 2, 0, 0)
    state, n = batch.generator.get_state(), batch.merged.index.shape[1]
    few = batch.uniform((2, n, 6), batch.x)
    batch.generator.set_state(state)
    every = replace(batch, merged=None).uniform((2, 16, 6), batch.x)
    torch.testing.assert_close(few, batch.merged.of(every))


@pytest.mark.parametrize("chosen", [{}, {"selection": "top_k", "top_k": 2}, {"selection": "lp", "top_k": None}])
def test_the_terms_and_gradients_of_apd_are_those_of_all_rows(start, sparse_rows, chosen):
    target = superposition.build(5, 2).eval().requires_grad_(False)
    settings = {"batch_size": 60, "input_noise": 0.0, "components": 4, "alive_share": 0.0} | chosen
    results = []
    for merge in (False, True):
        torch.manual_seed(0)
        method = start("apd", target, sparse_rows, instances=2, **settings).double()
        method.__dict__["silent_at_zero"] = merge
        batch = draw_batch(method, sparse_rows.double(), [torch.arange(60)] * 2, 0, 0)
        assert (batch.merged is not None) == merge
        terms = method.losses(batch)
        gradients = torch.autograd.grad(terms["total"].sum(), [*method.model.V, *method.model.U])
        results.append((torch.stack(list(terms.values())), *gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


def test_what_is_left_of_a_top_k_on_inputs_without_effect_is_shared_by_all_components(start, sparse_rows):
    target = superposition.build(5, 2).eval().requires_grad_(False)
    method = start("apd", target, sparse_rows, components=4, top_k=3.9)
    merged = MergedRows(torch.tensor([[0, 1, 2]]), torch.tensor([[0.1, 0.1, 0.8]]), drawn=10)
    whole, frequencies = method._batch_top_k(torch.rand(1, 3, 4) + 1, merged)
    assert whole.int().sum(2).tolist() == [[4, 4, 0]]
    # 3.9 * 10 = 39 pairs, 8 of them on the first two inputs: 31 / 4 of the other eight for each component
    torch.testing.assert_close(frequencies, torch.full((1, 4), (2 + 31 / 4) / 10))
