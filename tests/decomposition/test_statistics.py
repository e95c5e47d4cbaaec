"""What is measured on trusted rows before training."""

import torch
from torch import nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.statistics import ROWS, trusted_statistics


def measured(target: nn.Module, x: torch.Tensor, kind: str = "categorical"):
    return trusted_statistics(target, find_sites(target), x, kind)


def test_a_site_that_reads_the_networks_input_is_not_hidden(small_mlp, rows):
    assert list(measured(small_mlp, rows).hidden_variances) == ["head"]


def test_a_site_that_reads_the_flattened_input_is_not_hidden_either():
    target = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    assert list(measured(target, torch.randn(20, 2, 4)).hidden_variances) == ["3"]


def test_a_hidden_variance_is_the_mean_over_units_of_their_variance(small_mlp, rows):
    hidden = torch.relu(small_mlp.fc1(rows))
    found = measured(small_mlp, rows).hidden_variances["head"]
    torch.testing.assert_close(torch.tensor(found), hidden.var(0).mean())


def test_the_output_variance_is_that_of_clean_outputs(small_mlp, rows):
    metric = measured(small_mlp, rows, "regression").metric
    assert metric.kind == "regression"
    torch.testing.assert_close(torch.tensor(metric.variance), small_mlp(rows).var(0).mean())


def test_the_input_spread_is_per_input_coordinate(small_mlp, rows):
    torch.testing.assert_close(measured(small_mlp, rows).input_std, rows.std(0))


def test_constant_inputs_have_spread_zero_and_a_positive_output_variance(small_mlp):
    found = measured(small_mlp, torch.ones(20, 5))
    assert not found.input_std.any()
    assert found.metric.variance > 0


def test_a_span_holds_what_the_site_reads(small_mlp, rows):
    flat = rows.clone()
    flat[:, 3:] = 0.0
    spans = measured(small_mlp, flat).spans
    assert spans["fc1"].shape == (5, 3)
    residual = flat - flat @ spans["fc1"] @ spans["fc1"].t()
    assert residual.norm() < 1e-4 * flat.norm()


def test_the_span_of_a_convolution_is_of_its_patches(small_cnn, images):
    span = measured(small_cnn, images).spans["conv1"]
    assert span.shape[0] == 9  # one channel, 3 x 3
    torch.testing.assert_close(span.t() @ span, torch.eye(span.shape[1]), atol=1e-4, rtol=0)


def test_only_the_first_rows_are_measured(small_mlp):
    x = torch.randn(ROWS + 50, 5)
    torch.testing.assert_close(measured(small_mlp, x).input_std, x[:ROWS].std(0))


def test_token_ids_have_no_spread_to_add_noise_of():
    target = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    found = measured(target, torch.randint(7, (20, 3)))
    assert found.input_std.abs().sum() == 0
