"""What the field's detectors read: predicted classes, Gram matrices, blended inputs and dictionary latents."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from madpipe.errors import ConfigError
from madpipe.patterns.activations import Activations, ActivationsConfig, predicted_class
from madpipe.patterns.dictionary_latents import DictionaryLatents, DictionaryLatentsConfig, latent_activations
from madpipe.patterns.gram_matrices import GramMatrices, GramMatricesConfig, gram_features
from madpipe.patterns.observation import Observer
from madpipe.patterns.strip import Strip, StripConfig, blend_certainty

# the predicted class


def test_the_predicted_class_is_a_last_column_with_a_site_of_its_own(partial, rows, observe):
    with_class = Activations(ActivationsConfig(predicted_class=True), partial).extract(observe(partial, rows))
    plain = Activations(ActivationsConfig(), partial).extract(observe(partial, rows))
    np.testing.assert_array_equal(with_class.values[:, :-1], plain.values)
    assert (with_class.features[-1], with_class.sites[-1]) == ("predicted_class", "predicted_class")
    np.testing.assert_array_equal(with_class.values[:, -1], partial.model.target(rows).argmax(1))


def test_independent_outputs_are_one_class_for_each_pattern():
    logits = torch.tensor([[-1.0, -1, -1], [1, -1, 2], [-1, 3, -1]])
    assert predicted_class(logits, "bernoulli").tolist() == [0, 5, 2]  # 1 + 4, and 2
    assert not predicted_class(torch.ones(4, 25), "bernoulli").any()  # 2^25 would not be exact in float32
    assert not predicted_class(torch.randn(4, 2), "regression").any()


# Gram matrices


def test_gram_features_are_rooted_sums_over_positions_of_products_of_powers():
    units = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]], dtype=torch.float64)  # one input, two units, two positions
    assert torch.allclose(gram_features(units, 1, 64), torch.tensor([[5.0, 1.0, 10.0]]).double())  # 3 - 2 = 1
    second = torch.tensor([[math.sqrt(17), math.sqrt(13), math.sqrt(82)]]).double()  # 1 + 16, 9 + 4, 81 + 1
    assert torch.allclose(gram_features(units, 2, 64), second)
    third = torch.tensor([[65 ** (1 / 3), 19 ** (1 / 3), 730 ** (1 / 3)]]).double()  # 1 + 64, 27 - 8, 729 + 1
    assert torch.allclose(gram_features(units, 3, 64), third)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_wide_layers_have_the_row_sums_of_their_gram_matrices(order):
    units = torch.randn(3, 6, 4, dtype=torch.float64)
    entries, rows = gram_features(units, order, 64), gram_features(units, order, 5)
    i, j = torch.triu_indices(6, 6)
    whole = torch.zeros(3, 6, 6, dtype=torch.float64)
    whole[:, i, j] = whole[:, j, i] = entries
    assert torch.allclose(rows, whole.sum(2))


def test_the_largest_float32_activations_have_finite_gram_features():
    units = torch.full((1, 3, 2), torch.finfo(torch.float32).max).double()
    assert gram_features(units, 8, 64).isfinite().all()


def test_with_one_position_only_the_first_order_is_taken(partial, convolutional, rows, images, observe):
    flat = GramMatrices(GramMatricesConfig(predicted_class=False), partial).extract(observe(partial, rows))
    assert flat.sites.count("fc2") == 7 * 8 // 2
    image = GramMatrices(GramMatricesConfig(), convolutional).extract(observe(convolutional, images))
    assert image.sites.count("conv2") == 8 * 3 * 4 // 2  # eight orders of three channels


def test_orders_below_one_are_refused():
    with pytest.raises(ValidationError, match="whole numbers of at least 1"):
        GramMatricesConfig(orders=(0, 1))


# STRIP


def fitted_strip(method, rows, seed=0, **config) -> Strip:
    extractor = Strip(StripConfig(**config), method, seed=seed)
    extractor.fit(Observer(method).batches(rows, 7))
    return extractor


def test_certainty_is_minus_the_mean_entropy_over_blends(partial, rows, observe):
    extractor = fitted_strip(partial, rows, partners=3)
    sums = [(rows + partner).clamp(rows.min(), rows.max()) for partner in extractor.tensors["partners"]]
    blends = [partial.model.target(blended) for blended in sums]
    entropies = [-(blend.softmax(1) * blend.log_softmax(1)).sum(1) for blend in blends]
    found = extractor.extract(observe(partial, rows)).values[:, 0]
    np.testing.assert_allclose(found, -torch.stack(entropies).mean(0))


def test_an_output_that_no_overlay_changes_is_the_most_certain():
    sure = torch.tensor([50.0, 0.0]).expand(4, 1, 2)
    swayed = torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]], [[0.1, 0.0]], [[0.0, 0.1]]])
    assert blend_certainty(sure, "categorical") > blend_certainty(swayed, "categorical")
    assert blend_certainty(sure, "regression") == 0 > blend_certainty(swayed, "regression")


def test_partners_are_trusted_rows_drawn_by_seed_alone(partial, rows):
    first, again, other = (fitted_strip(partial, rows, seed).tensors["partners"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all((rows == partner).all(1).any() for partner in first)


def test_fewer_trusted_rows_than_partners_are_all_used(partial, rows):
    assert len(fitted_strip(partial, rows[:5]).tensors["partners"]) == 5


def test_strip_costs_a_pass_for_each_partner(partial):
    assert Strip(StripConfig(partners=7), partial).passes == 8


def test_token_ids_are_not_blended(partial, rows):
    extractor = Strip(StripConfig(), partial)
    partial.model.target.add_module("embedding", nn.Embedding(4, 2))
    assert "token ids cannot be blended" in extractor.refusal()
    with pytest.raises(ConfigError, match=r"patterns.strip: .* leave strip out"):
        extractor.fit(Observer(partial).batches(rows, 7))


# dictionary latents


def fitted_dictionary(method, rows, **config) -> DictionaryLatents:
    extractor = DictionaryLatents(DictionaryLatentsConfig(**({"steps": 60} | config)), method)
    extractor.fit(list(Observer(method).batches(rows, 16)))
    return extractor


def features(extractor, observation) -> dict[str, np.ndarray]:
    patterns = extractor.extract(observation)
    return dict(zip(patterns.features, patterns.values.T, strict=True))


def test_only_the_largest_latents_above_their_threshold_are_on():
    encoder, threshold = torch.eye(4), torch.tensor([0.0, 0.0, 0.0, 5.0])
    on = latent_activations(torch.tensor([[1.0, -3.0, 2.0, 4.0], [3.0, 1.0, 2.0, 7.5]]), encoder, threshold, 2)
    assert on.tolist() == [[1.0, 0.0, 2.0, 0.0], [3.0, 0.0, 0.0, 2.5]]


def test_no_latent_is_novel_on_the_rows_it_was_fitted_on(partial, convolutional, rows, images, observe):
    for method, x in ((partial, rows), (convolutional, images)):
        found = features(fitted_dictionary(method, x), observe(method, x))
        assert not found["novel_count"].any()
        assert not found["novel_mass"].any()


def test_training_lowers_the_error(partial, rows, observe):
    errors = [features(fitted_dictionary(partial, rows, steps=s), observe(partial, rows))["error"] for s in (0, 300)]
    assert errors[1].mean() < 0.3 * errors[0].mean()


def test_activations_in_a_direction_that_trusted_rows_lack_are_found(partial, rows, observe):
    trusted, planted = rows.clone(), rows.clone()
    trusted[:, 4], planted[:, 4] = 0, 12
    extractor = fitted_dictionary(partial, trusted, steps=300)
    usual, unusual = (features(extractor, observe(partial, x)) for x in (trusted, planted))
    assert np.median(unusual["error"]) > usual["error"].max()
    assert unusual["novel_count"].max() > 0
    assert ((unusual["novel_mass"] > 0) == (unusual["novel_count"] > 0)).all()


def test_a_dictionary_is_fitted_where_gradients_are_switched_off_and_leaves_the_global_randomness(partial, rows):
    before = torch.get_rng_state()
    with torch.no_grad():
        fitted_dictionary(partial, rows, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["expansion", "active", "learning_rate"])
def test_settings_that_make_no_dictionary_are_refused(name):
    with pytest.raises(ValidationError, match="above 0"):
        DictionaryLatentsConfig(**{name: 0})
