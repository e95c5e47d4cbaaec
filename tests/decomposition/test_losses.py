"""Each loss against its definition, with the arithmetic beside it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions

from madpipe.decomposition.losses import (
    OutputMetric,
    faithfulness,
    frequency,
    hidden_reconstruction,
    importance_minimality,
    parsimony,
    per_instance_mean,
    relative_faithfulness,
    schatten,
    smooth_l0,
    sum_and_sizes,
)

KINDS = ("categorical", "bernoulli", "regression")
each_kind = pytest.mark.parametrize("kind", KINDS)
logits = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


def distribution(kind: str, raw: torch.Tensor, variance: float) -> distributions.Distribution:
    match kind:
        case "categorical":
            return distributions.Categorical(logits=raw)
        case "bernoulli":
            return distributions.Independent(distributions.Bernoulli(logits=raw), 1)
    return distributions.Independent(distributions.Normal(raw, math.sqrt(variance)), 1)


@each_kind
def test_kl_is_that_of_the_distributions_which_the_outputs_stand_for(kind: str):
    p, q = torch.randn(2, 4, 6, 3, dtype=torch.float64) * 3
    wanted = distributions.kl_divergence(distribution(kind, p, 2.5), distribution(kind, q, 2.5))
    torch.testing.assert_close(OutputMetric(kind, 2.5).kl(p, q), wanted)


@each_kind
def test_kl_and_distance_of_an_output_from_itself_are_exactly_zero(kind: str):
    p, metric = torch.randn(20, 5) * 10, OutputMetric(kind, 0.7)
    assert not metric.kl(p, p).any()
    assert not metric.squared_distance(p, p).any()


@each_kind
@given(p=logits, q=logits)
def test_kl_is_not_negative(kind: str, p: list[float], q: list[float]):
    kl = OutputMetric(kind, 1.0).kl(torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64))
    assert float(kl) >= -1e-13  # the last bit of sums of terms of size 30


@each_kind
def test_enormous_logits_give_finite_values_and_gradients(kind: str):
    p, q = torch.tensor([300.0, -300.0]), torch.tensor([-300.0, 300.0], requires_grad=True)
    kl = OutputMetric(kind, 1.0).kl(p, q)
    kl.backward()
    assert kl.isfinite()
    assert q.grad.isfinite().all()


def test_the_squared_distance_is_a_mean_over_outputs_in_units_of_variance():
    # ((1 - 3)^2 + (2 - 2)^2) / 2 / 4 = 0.5
    metric = OutputMetric("categorical", 4.0)
    assert float(metric.squared_distance(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))) == 0.5


def test_reconstruction_is_kl_plus_distance_averaged_over_inputs_and_positions():
    p, q = torch.randn(2, 3, 4, 5, 6)
    metric = OutputMetric("categorical", 1.3)
    wanted = torch.stack([(metric.kl(p[s], q[s]) + metric.squared_distance(p[s], q[s])).mean() for s in range(3)])
    torch.testing.assert_close(metric.reconstruction(p, q), wanted)


def test_a_mean_is_taken_within_an_instance():
    assert per_instance_mean(torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]]])).tolist() == [1.5, 4.0]


def test_hidden_reconstruction_averages_sites_in_units_of_their_variance():
    # site a: mean of (0, 4) / 2 = 1; site b: 9 / 3 = 3; their mean is 2
    clean = {"x": torch.zeros(1, 1, 1), "a": torch.tensor([[[0.0, 2.0]]]), "b": torch.tensor([[[3.0]]])}
    masked = {name: torch.zeros_like(value) for name, value in clean.items()} | {"x": torch.full((1, 1, 1), 9.0)}
    assert hidden_reconstruction(clean, masked, {"a": 2.0, "b": 3.0}).tolist() == [2.0]


def test_hidden_reconstruction_without_hidden_sites_is_zero():
    assert float(hidden_reconstruction({"x": torch.ones(1, 2, 3)}, {"x": torch.zeros(1, 2, 3)}, {})) == 0.0


def test_faithfulness_is_a_mean_over_all_weights_of_all_sites():
    # instance 0: (4 * 1 + 2 * 4) / 6 = 2; instance 1: 0
    deltas = [
        torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 2, 2),
        torch.tensor([2.0, 0.0]).view(2, 1, 1).expand(2, 1, 2),
    ]
    assert faithfulness(deltas).tolist() == [2.0, 0.0]


def test_parsimony_of_the_weights_themselves_counts_the_sites():
    weights = [torch.randn(3, 4), torch.randn(4, 2)]
    torch.testing.assert_close(parsimony([w.expand(2, *w.shape) for w in weights], weights), torch.tensor([2.0, 2.0]))


def test_parsimony_of_nothing_is_zero_and_of_half_a_quarter():
    w = torch.randn(3, 4)
    torch.testing.assert_close(parsimony([torch.stack([0 * w, 0.5 * w])], [w]), torch.tensor([0.0, 0.25]))


def test_importance_minimality_sums_slots_and_sites_and_averages_inputs():
    # site a, p = 2: (0.5^2 + 0 + 1 + 0.5^2) / 2 inputs = 0.75; site b: (1 + 1) / 2 = 1
    a, b = torch.tensor([[[0.5, 0.0], [1.0, 0.5]]]), torch.tensor([[[1.0], [1.0]]])
    assert importance_minimality([a, b], 2.0).tolist() == pytest.approx([1.75], abs=1e-5)


def test_importance_minimality_averages_positions():
    # positions with 1 and 0 active: (1 + 0) / 2
    g = torch.tensor([1.0, 0.0]).view(1, 1, 2, 1)
    assert importance_minimality([g], 0.5).tolist() == pytest.approx([0.5], abs=1e-2)


def test_importance_minimality_has_a_finite_gradient_at_zero():
    g = torch.zeros(1, 1, 3, requires_grad=True)
    importance_minimality([g], 0.4).sum().backward()
    assert g.grad.isfinite().all()


def orthogonal_component(d_in: int, d_out: int, singular_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """V [1, I, m] and U [1, m, O] whose slots are the singular vectors of their sum."""
    m = len(singular_values)
    left, right = torch.linalg.qr(torch.randn(d_in, m))[0], torch.linalg.qr(torch.randn(d_out, m))[0]
    return (left * singular_values.sqrt())[None], (right * singular_values.sqrt()).t()[None]


@pytest.mark.parametrize("exponent", [0.9, 1.0, 2.0])
def test_schatten_of_orthogonal_slots_is_the_schatten_norm_of_their_sum(exponent: float):
    V, U = orthogonal_component(6, 5, torch.tensor([3.0, 1.0, 0.2]))
    wanted = torch.linalg.svdvals((V @ U)[0])[:3].pow(exponent).sum()
    torch.testing.assert_close(
        schatten(sum_and_sizes(V, U)[1], torch.ones(1, 1), exponent), wanted[None], rtol=1e-4, atol=1e-5
    )


def test_schatten_counts_a_component_on_the_inputs_where_it_is_active():
    # energies 1 and 4 with p = 1: norms 1 and 2; active on 3 and on 1 of 4 inputs: 0.75 * 1 + 0.25 * 2 = 1.25
    V, U = torch.ones(1, 1, 2), torch.tensor([[[1.0], [2.0]]])
    assert schatten(sum_and_sizes(V, U)[1], torch.tensor([[0.75, 0.25]]), 1.0).tolist() == pytest.approx([1.25])


def test_schatten_has_a_finite_gradient_at_empty_slots():
    V, U = torch.zeros(1, 3, 2, requires_grad=True), torch.zeros(1, 2, 3, requires_grad=True)
    schatten(sum_and_sizes(V, U)[1], torch.ones(1, 1), 0.5).sum().backward()
    assert V.grad.isfinite().all()
    assert U.grad.isfinite().all()


def test_relative_faithfulness_is_one_where_nothing_is_explained_and_zero_where_all_is():
    weights = [torch.randn(3, 2), torch.randn(2, 4)]
    nothing, all_of_it = [w[None] for w in weights], [torch.zeros(1, *w.shape) for w in weights]
    assert relative_faithfulness(nothing, weights).tolist() == pytest.approx([1.0])
    assert relative_faithfulness(all_of_it, weights).tolist() == [0.0]


def test_relative_faithfulness_of_weights_of_zeros_is_finite():
    assert relative_faithfulness([torch.zeros(2, 3, 2)], [torch.zeros(3, 2)]).tolist() == [0.0, 0.0]


def test_a_smooth_l0_counts_half_at_its_width_and_active_slots_as_it_narrows():
    g = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert smooth_l0([g], 0.5).tolist() == pytest.approx([0.5 + 1 / 1.25])  # 0 + 1/2 + 1 / (1 + 0.25)
    assert smooth_l0([g, g], 1e-4).tolist() == pytest.approx([4.0])


def test_frequency_costs_more_where_two_rare_mechanisms_share_a_slot():
    apart = torch.zeros(1, 10, 2)
    apart[0, 0, 0] = apart[0, 1, 1] = 1.0
    shared = torch.zeros(1, 10, 2)
    shared[0, :2, 0] = 1.0
    # apart: 2 * 0.1 * log2(1 + 10); shared: 0.2 * log2(1 + 20)
    assert frequency([apart], 100.0).tolist() == pytest.approx([0.2 * math.log2(11)])
    assert frequency([shared], 100.0).tolist() == pytest.approx([0.2 * math.log2(21)])
