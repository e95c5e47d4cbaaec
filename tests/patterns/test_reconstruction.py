"""How far the explained pass is from the clean one."""

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.components.checkpoint import load_tensors, save_tensors
from madpipe.patterns.observation import Observer
from madpipe.patterns.reconstruction import VARIANCE_FLOOR, Reconstruction, ReconstructionConfig

STATISTICS = ("kl_forward", "kl_reverse", "l2")


def fitted(method, rows, masks=("alive",), statistics=("kl_forward",)) -> Reconstruction:
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
        "hidden_max_alive_hidden",
    }


def test_output_statistics_are_those_of_the_two_passes(partial, rows, observe):
    observation = observe(partial, rows)
    found = features(fitted(partial, rows, statistics=STATISTICS), observation)
    metric = partial.statistics.metric
    clean, explained = observation.clean.output[0], observation.explained("alive").output
    np.testing.assert_allclose(found["kl_forward_alive_output"], metric.kl(clean, explained[0]))
    np.testing.assert_allclose(found["kl_reverse_alive_output"], metric.kl(explained[0], clean))
    np.testing.assert_allclose(found["l2_alive_output"], metric.squared_distance(clean, explained[0]))


def test_a_hidden_residual_is_in_units_of_each_units_trusted_variance(partial, rows, observe):
    observation = observe(partial, rows)
    found = features(fitted(partial, rows), observation)
    per_site = []
    for site in ("fc2", "head"):
        clean, explained = observation.clean.site_inputs[site][0], observation.explained("alive").site_inputs[site][1]
        variance = clean.var(0, unbiased=False)
        variance = variance.clamp(min=VARIANCE_FLOOR * float(variance.mean()))
        per_site.append(((clean - explained).square() / variance).mean(1))
    np.testing.assert_allclose(found["hidden_first_alive_hidden"], per_site[0], rtol=1e-6)
    np.testing.assert_allclose(found["hidden_max_alive_hidden"], torch.stack(per_site).amax(0), rtol=1e-6)


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
    assert (fitted(method, rows).state()["fc2"] > 0).all()
    assert np.isfinite(fitted(method, rows).extract(observe(method, rows)).values).all()
