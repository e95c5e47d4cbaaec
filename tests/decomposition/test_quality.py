"""Figures of a decomposition made by hand, where each is known."""

import pytest
import torch
from torch import nn

from madpipe.decomposition.losses import OutputMetric
from madpipe.decomposition.quality import quality


@pytest.fixture
def exact(start, small_mlp, rows):
    """Slot k reads input k and writes row k of the weight: their sum is the weight. Importances 1, 1, 0.05, 0, ..."""
    method = start("spd", small_mlp, rows, components=8).eval().requires_grad_(False)
    for i, site in enumerate(method.model.sites):
        method.model.V[i].zero_()[:, :, : site.d_in] = torch.eye(site.d_in)
        method.model.U[i].zero_()[:, : site.d_in] = method.model.weight(i)
        method.importance[i].write.zero_()
        method.importance[i].bias.copy_(torch.tensor([1.0, 1.0, 0.05, 0.0, 0.0, 0.0, 0.0, -1.0]))
    return method


def figures(method, rows) -> dict[str, float]:
    """Of the first variant."""
    name = method.variant_names[0]
    return {key.split("/")[0]: value for key, value in quality(method, rows.split(16)).items() if key.endswith(name)}


def test_a_sum_equal_to_the_weights_is_faithful(exact, rows):
    assert figures(exact, rows)["faithfulness"] == 0.0


def test_a_sum_equal_to_the_weights_reconstructs_unmasked(exact, rows):
    assert figures(exact, rows)["reconstruction_unmasked"] == pytest.approx(0.0, abs=1e-6)


def test_all_slots_alive_have_the_norm_and_the_output_of_the_weights(exact, rows):
    found = figures(exact, rows)
    assert found["alive"] == 16
    assert found["alive_norm"] == pytest.approx(1.0)
    assert found["reconstruction_alive"] == pytest.approx(0.0, abs=1e-6)


def test_half_of_every_weight_is_a_quarter_unfaithful(exact, rows):
    for U in exact.model.U:
        U *= 0.5
    assert figures(exact, rows)["faithfulness"] == pytest.approx(0.25)


def test_dead_slots_count_neither_as_alive_nor_in_the_norm(exact, rows):
    exact.alive(0)[:, 1:] = False
    exact.alive(1)[:] = False
    kept = exact.model.weight(0)[0].square().sum() / sum(exact.model.weight(i).square().sum() for i in range(2))
    found = figures(exact, rows)
    assert found["alive"] == 1
    assert found["alive_norm"] == pytest.approx(float(kept))


def test_l0_counts_active_slots_over_both_sites(exact, rows):
    found = figures(exact, rows)
    assert found["l0"] == 6  # 1, 1 and 0.05 at two sites
    assert found["l0_01"] == 4  # 1 and 1


def test_reconstruction_by_importance_is_the_divergence_of_that_pass(exact, rows):
    masks = torch.tensor([1.0, 1.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    fc1, head = exact.model.target.fc1, exact.model.target.head
    h = torch.relu(rows @ (masks[:5, None] * fc1.weight.t()) + fc1.bias)
    explained = h @ (masks[:, None] * head.weight.t()) + head.bias
    wanted = OutputMetric("categorical", 1.0).kl(exact.model.target(rows), explained).mean()
    assert figures(exact, rows)["reconstruction_importance"] == pytest.approx(float(wanted), rel=1e-4)


def test_stochastic_reconstruction_lies_between_none_and_all_ablated(exact, rows):
    found = figures(exact, rows)
    assert 0 < found["reconstruction_stochastic"] < found["reconstruction_importance"]


def test_figures_do_not_depend_on_chunks(exact, rows):
    one, several = quality(exact, [rows]), quality(exact, rows.split(7))
    for key in one:
        if not key.startswith("reconstruction_stochastic"):  # drawn chunk by chunk
            assert several[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6)


def test_every_variant_has_every_figure(exact, rows):
    found = quality(exact, [rows])
    names = {key.split("/")[0] for key in found}
    assert set(found) == {f"{name}/{variant}" for name in names for variant in exact.variant_names}


def test_l0_of_a_convolution_is_a_mean_over_positions(start, small_cnn, images):
    method = start("spd", small_cnn, images).eval().requires_grad_(False)
    for importance in method.importance:
        importance.write.zero_()
        importance.bias.copy_(torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
    assert figures(method, images)["l0"] == pytest.approx(2 * len(method.model.sites))


def test_a_figure_is_that_of_its_variant(exact, rows):
    exact.model.U[0][1] *= 0.0
    exact.model.U[1][1] *= 0.0
    found = quality(exact, [rows])
    assert [found[f"faithfulness/{name}"] for name in exact.variant_names] == pytest.approx([0.0, 1.0])


def test_quality_leaves_the_method(exact, rows):
    before = {key: value.clone() for key, value in exact.state_dict().items()}
    quality(exact, [rows])
    assert all(torch.equal(value, before[key]) for key, value in exact.state_dict().items())
    assert isinstance(exact, nn.Module)
