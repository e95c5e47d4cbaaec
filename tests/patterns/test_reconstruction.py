"""How far the explained pass is from the clean one."""

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.components.checkpoint import load_tensors, save_tensors
from madpipe.decomposition.losses import OutputMetric
from madpipe.patterns.observation import Observer
from madpipe.patterns.reconstruction import (
    DEFAULT,
    RESIDUAL_FLOOR,
    VARIANCE_FLOOR,
    Reconstruction,
    ReconstructionConfig,
)

STATISTICS = ("kl_forward", "kl_reverse", "l2", "output_max")


def fitted(method, rows, masks=("alive",), statistics=DEFAULT) -> Reconstruction:
    extractor = Reconstruction(ReconstructionConfig(masks=masks, statistics=statistics), method)
    extractor.fit(Observer(method).batches(rows, 16))
    return extractor


def features(extractor, observation) -> dict[str, np.ndarray]:
    patterns = extractor.extract(observation)
    return dict(zip(patterns.features, patterns.values.T, strict=True))


def test_what_is_explained_exactly_has_residuals_of_zero(exact, rows, observe):
    assert np.abs(fitted(exact, rows).extract(observe(exact, rows)).values).max() < 1e-12


def test_residuals_are_not_negative(partial, rows, observe):
    values = fitted(partial, rows, ("alive", "importance")).extract(observe(partial, rows)).values
    assert values.min() >= -1e-12
    assert values.max() > 0


def test_every_mask_has_the_output_statistics_asked_for_of_the_variant_that_matches_outputs_alone(
    partial, rows, observe
):
    found = features(fitted(partial, rows, ("alive", "sampled"), STATISTICS), observe(partial, rows))
    wanted = {f"{s}_{mask}_output" for s in STATISTICS for mask in ("alive", "sampled")}
    assert {name for name in found if not name.startswith("hidden_")} == wanted


def test_hidden_residuals_are_of_variants_that_were_to_match_them(partial, rows, observe):
    found = features(fitted(partial, rows), observe(partial, rows))
    assert {name for name in found if name.startswith("hidden_")} == {
        "hidden_first_alive_hidden",
        "hidden_last_alive_hidden",
    }


def test_output_statistics_are_those_of_the_two_passes(partial, rows, observe):
    observation = observe(partial, rows)
    found = features(fitted(partial, rows, statistics=STATISTICS), observation)
    metric = partial.statistics.metric
    clean, explained = observation.clean.output[0], observation.explained("alive").output
    np.testing.assert_allclose(found["kl_forward_alive_output"], metric.kl(clean, explained[0]))
    np.testing.assert_allclose(found["kl_reverse_alive_output"], metric.kl(explained[0], clean))
    np.testing.assert_allclose(found["l2_alive_output"], metric.squared_distance(clean, explained[0]))


def passes_at(observation, site, variant) -> tuple[torch.Tensor, torch.Tensor]:
    return observation.clean.site_inputs[site][0], observation.explained("alive").site_inputs[site][variant]


def test_the_first_hidden_residual_is_in_units_of_each_units_trusted_variance(partial, rows, observe):
    observation = observe(partial, rows)
    clean, explained = passes_at(observation, "fc2", 1)
    variance = clean.var(0, unbiased=False)
    wanted = ((clean - explained).square() / variance.clamp(min=VARIANCE_FLOOR * float(variance.mean()))).mean(1)
    np.testing.assert_allclose(
        features(fitted(partial, rows), observation)["hidden_first_alive_hidden"], wanted, rtol=1e-6
    )


def test_the_last_hidden_residual_is_in_units_of_each_units_residual_on_trusted_rows(partial, rows, observe):
    observation = observe(partial, rows)
    clean, explained = passes_at(observation, "head", 1)
    usual = (clean - explained).square().mean(0)
    wanted = ((clean - explained).square() / usual.clamp(min=RESIDUAL_FLOOR * float(usual.mean()))).mean(1)
    found = features(fitted(partial, rows), observation)["hidden_last_alive_hidden"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert np.mean(found) == pytest.approx(1.0, abs=0.2)  # on the rows whose mean squares are the units


def test_what_outputs_of_a_softmax_have_in_common_is_one_more_output(partial, rows, observe):
    observation = observe(partial, rows)
    residuals = observation.clean.output[0] - observation.explained("alive").output[0]
    common = residuals.mean(1, keepdim=True)
    apart = torch.cat([residuals - common, common], 1)
    wanted = (apart.square() / apart.square().mean(0)).amax(1)
    np.testing.assert_allclose(
        features(fitted(partial, rows), observation)["output_max_alive_output"], wanted, rtol=1e-6
    )


def test_independent_outputs_are_compared_as_they_are(target, make, rows, observe):
    method = make(target, rows)
    method.alive(0)[:, ::2] = False
    object.__setattr__(method.statistics, "metric", OutputMetric("bernoulli", 1.0))
    observation = observe(method, rows)
    squares = (observation.clean.output[0] - observation.explained("alive").output[0]).square()
    found = features(fitted(method, rows), observation)["output_max_alive_output"]
    np.testing.assert_allclose(found, (squares / squares.mean(0)).amax(1), rtol=1e-6)


def test_batches_do_not_matter_to_what_is_learned(partial, rows):
    one, many = (Reconstruction(ReconstructionConfig(), partial) for _ in range(2))
    one.fit(Observer(partial).batches(rows, 100))
    many.fit(Observer(partial).batches(rows, 7))
    for name, value in one.state().items():
        torch.testing.assert_close(many.state()[name], value)


@pytest.fixture
def unalphabetical(make, rows):
    """Sites whose order is not that of the alphabet, in which safetensors and JSON keep their keys."""
    layers = {"zebra": (5, 6), "yak": (6, 4), "ant": (4, 3)}
    parts = [(name, nn.Linear(*sizes)) for name, sizes in layers.items()]
    target = nn.Sequential()
    for name, layer in parts:
        target.add_module(name, layer)
        target.add_module(f"{name}_relu", nn.ReLU())
    return make(target[:-1].requires_grad_(False), rows, components=3)


def test_the_first_hidden_site_is_the_first_after_a_round_trip_too(unalphabetical, rows, tmp_path, observe):
    extractor = fitted(unalphabetical, rows)
    save_tensors(extractor.state(), tmp_path / "e.safetensors")
    restored = Reconstruction(ReconstructionConfig(), unalphabetical)
    restored.restore(load_tensors(tmp_path / "e.safetensors"))
    before, after = (e.extract(observe(unalphabetical, rows)) for e in (extractor, restored))
    assert after.features == before.features
    np.testing.assert_allclose(after.values, before.values)


def test_a_unit_silent_on_trusted_rows_counts_but_not_without_bound(target, make, rows, observe):
    target.fc1.weight.data[0], target.fc1.bias.data[0] = 0.0, 0.0
    method = make(target, rows)
    assert (fitted(method, rows).state()["variance"] > 0).all()
    assert np.isfinite(fitted(method, rows).extract(observe(method, rows)).values).all()
