"""What each extractor's features mean, on decompositions where it can be worked out."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from madpipe.errors import UnknownNameError
from madpipe.patterns.activations import Activations, ActivationsConfig
from madpipe.patterns.causal_importances import CausalImportances
from madpipe.patterns.copies import disagreement, fit_copy, reinitialised
from madpipe.patterns.delta import DeltaAttribution
from madpipe.patterns.extractor import ExtractorConfig, SlotConfig
from madpipe.patterns.inner_activations import InnerActivations
from madpipe.patterns.inputs import Inputs
from madpipe.patterns.outputs import confidence
from madpipe.patterns.trusted_copy import CopyConfig, TrustedCopy


def features(extractor, observation) -> dict[str, np.ndarray]:
    patterns = extractor.extract(observation)
    return dict(zip(patterns.features, patterns.values.T, strict=True))


# inner activations and causal importances


def test_an_inner_activation_is_the_size_of_what_the_slot_writes_with_the_sign_of_what_it_reads(partial, rows, observe):
    found = features(InnerActivations(SlotConfig(), partial), observe(partial, rows))
    V, U = partial.model.V[0][1], partial.model.U[0][1]
    np.testing.assert_allclose(found["hidden:fc1.3"], (rows @ V[:, 3]) * U[3].norm(), rtol=1e-5)


def test_over_positions_the_largest_inner_activation_counts(convolutional, images, observe):
    found = features(InnerActivations(SlotConfig(), convolutional), observe(convolutional, images))
    V, U = convolutional.model.V[0][0], convolutional.model.U[0][0]
    read = nn.functional.conv2d(images, V[:, 2].view(1, 1, 3, 3), padding=1).flatten(1)
    np.testing.assert_allclose(np.abs(found["output:conv1.2"]), read.abs().amax(1) * U[2].norm(), rtol=1e-5)


def test_a_causal_importance_is_the_activity(partial, rows, observe):
    observation = observe(partial, rows)
    found = features(CausalImportances(SlotConfig(), partial), observation)
    np.testing.assert_allclose(found["hidden:fc2.5"], observation.activity["fc2"][1, :, 5], rtol=1e-6)


def test_every_slot_of_every_variant_has_a_feature_that_knows_its_site(partial, rows, observe):
    patterns = CausalImportances(SlotConfig(), partial).extract(observe(partial, rows))
    assert len(patterns.features) == 2 * 3 * 8
    assert all(f":{site}." in name for name, site in zip(patterns.features, patterns.sites, strict=True))


# delta


def test_a_delta_of_zero_attributes_nothing(exact, rows, observe):
    assert np.abs(DeltaAttribution(ExtractorConfig(), exact).extract(observe(exact, rows)).values).max() < 1e-12


def test_a_delta_attribution_is_what_the_alive_slots_leave_out(partial, rows, observe):
    found = features(DeltaAttribution(ExtractorConfig(), partial), observe(partial, rows))
    kept = partial.model.V[0][1][:, ::2] @ partial.model.U[0][1][::2]
    wanted = (rows @ (partial.model.weight(0) - kept)).square().mean(1).sqrt()
    np.testing.assert_allclose(found["hidden:delta@fc1"], wanted)


def test_with_no_slot_alive_the_delta_is_the_whole_weight(partial, rows, observe):
    for i in range(3):
        partial.alive(i)[:] = False
    found = features(DeltaAttribution(ExtractorConfig(), partial), observe(partial, rows))
    np.testing.assert_allclose(found["output:delta@fc1"], (rows @ partial.model.weight(0)).square().mean(1).sqrt())


# activations and inputs


def chosen(method, rows, observe, **config) -> set[str]:
    patterns = Activations(ActivationsConfig(**config), method).extract(observe(method, rows))
    return {name.rpartition(".")[0] for name in patterns.features}


def test_activations_are_hidden_site_inputs_and_the_output(partial, rows, observe):
    patterns = Activations(ActivationsConfig(), partial).extract(observe(partial, rows))
    target = partial.model.target
    h1 = torch.relu(target.fc1(rows))
    wanted = torch.cat([h1, torch.relu(target.fc2(h1)), target(rows)], 1)
    np.testing.assert_allclose(patterns.values, wanted.float(), rtol=1e-6)


def test_the_last_layer_is_the_penultimate_one(partial, rows, observe):
    assert chosen(partial, rows, observe, layers=("last",), output=False) == {"head"}


def test_layers_can_be_chosen_by_name(partial, rows, observe):
    assert chosen(partial, rows, observe, layers=("fc2",)) == {"fc2", "output"}


def test_an_unknown_layer_is_refused(partial, rows, observe):
    with pytest.raises(UnknownNameError, match="no hidden layer named 'fc3'. Did you mean 'fc2'"):
        chosen(partial, rows, observe, layers=("fc3",))


def test_inputs_are_the_flattened_inputs(convolutional, images, observe):
    patterns = Inputs(ExtractorConfig(), convolutional).extract(observe(convolutional, images))
    np.testing.assert_array_equal(patterns.values, images.flatten(1).float())
    assert patterns.features[0] == "x.0"


# outputs


def test_categorical_confidence_is_scipys():
    logits = torch.randn(30, 4, dtype=torch.float64) * 3
    found, p = confidence(logits, "categorical"), special.softmax(logits.numpy(), axis=1)
    np.testing.assert_allclose(found["entropy"], stats.entropy(p, axis=1))
    np.testing.assert_allclose(found["max_probability"], 1 - p.max(1))
    np.testing.assert_allclose(found["energy"], -special.logsumexp(logits.numpy(), axis=1))


def test_bernoulli_confidence_is_averaged_over_outputs():
    logits = torch.randn(30, 4, dtype=torch.float64) * 3
    found, p = confidence(logits, "bernoulli"), special.expit(logits.numpy())
    np.testing.assert_allclose(found["entropy"], stats.bernoulli(p).entropy().mean(1))
    np.testing.assert_allclose(found["max_probability"], 1 - np.maximum(p, 1 - p).mean(1))


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_a_surer_output_is_less_suspicious(kind: str):
    sure, unsure = (confidence(torch.tensor([[size, -size]], dtype=torch.float64), kind) for size in (5.0, 0.1))
    assert all(float(sure[name]) < float(unsure[name]) for name in sure)


def test_regression_confidence_is_the_distance_from_zero():
    assert confidence(torch.tensor([[3.0, 4.0]]), "regression")["magnitude"].tolist() == [5.0]


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_enormous_logits_have_a_finite_confidence(kind: str):
    found = confidence(torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float64), kind)
    assert all(math.isfinite(float(value)) for value in found.values())


# copies


def test_an_untrained_copy_of_the_target_agrees_with_it(partial, rows, observe):
    extractor = TrustedCopy(CopyConfig(steps=0), partial)
    extractor.fit([observe(partial, rows)])
    assert np.abs(extractor.extract(observe(partial, rows)).values).max() < 1e-12


def test_decay_makes_the_copy_disagree(partial, rows, observe):
    sizes = []
    for decay in (0.0, 100.0):
        extractor = TrustedCopy(CopyConfig(steps=30, weight_decay=decay), partial)
        extractor.fit([observe(partial, rows)])
        sizes.append(extractor.extract(observe(partial, rows)).values.mean())
    assert sizes[0] < sizes[1]


def test_a_copy_is_fitted_where_gradients_are_switched_off(partial, rows, observe):
    with torch.no_grad():
        TrustedCopy(CopyConfig(steps=2), partial).fit([observe(partial, rows)])


def test_a_network_with_dropout_is_copied_alike_every_time(partial, rows):
    target = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    outputs = []
    for draws in (1, 2):
        torch.rand(draws)
        copied = fit_copy(
            reinitialised(target, 0),
            target,
            rows.float(),
            partial.statistics.metric,
            steps=5,
            rate=1e-2,
            decay=0.0,
            seed=0,
        )
        outputs.append(copied(rows.float()))
    assert torch.equal(*outputs)


def test_fitting_a_copy_leaves_the_global_randomness_and_the_target(partial, rows, observe):
    before, weights = torch.get_rng_state(), [p.clone() for p in partial.model.target.parameters()]
    TrustedCopy(CopyConfig(steps=3), partial).fit([observe(partial, rows)])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(partial.model.target.parameters(), weights, strict=True))


def test_a_reinitialised_network_is_fresh_by_seed_alone(target):
    first, again, other = (reinitialised(target, seed) for seed in (1, 1, 2))
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)
    assert not torch.equal(first.fc1.weight, target.fc1.weight)


def test_disagreement_is_from_the_target_to_the_copy(partial):
    metric, p, q = partial.statistics.metric, torch.randn(6, 3), torch.randn(6, 3)
    assert torch.equal(disagreement(metric, p, q)["kl"], metric.kl(p, q))
    assert not any(value.any() for value in disagreement(metric, p, p).values())
