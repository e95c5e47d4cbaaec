"""What every registered extractor keeps, its table being the list."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from madpipe.components.checkpoint import load_tensors, save_tensors
from madpipe.components.sites import find_sites
from madpipe.decomposition.method import Method
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observer
from madpipe.patterns.pattern import PREDICTED_CLASS, Patterns
from madpipe.registry import EXTRACTORS, METHODS
from madpipe.targets import convnet, mlp

each_extractor = pytest.mark.parametrize("name", EXTRACTORS)
SETTINGS: dict[str, dict[str, Any]] = {  # other than the defaults
    "activations": {"predicted_class": True},
    "dictionary_latents": {"steps": 20},
    "reconstruction": {"masks": ("alive", "importance", "delta_removed", "sampled")},
    "student": {"steps": 5},
    "trusted_copy": {"steps": 5},
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A settled method, in float64 as inputs are scored, trusted rows and fresh ones."""

    method: Method
    observer: Observer
    trusted: Tensor
    fresh: Tensor

    def extractor(self, name: str) -> Extractor:
        extractor_class = EXTRACTORS.load(name)
        made: Extractor = extractor_class(extractor_class.Config(**SETTINGS.get(name, {})), self.method, seed=1)
        return made

    def fitted(self, name: str) -> Extractor:
        extractor = self.extractor(name)
        extractor.fit(self.observer.batches(self.trusted, 7))
        return extractor

    def extract(self, extractor: Extractor, x: Tensor) -> Patterns:
        return extractor.extract(self.observer.observe(x))


def settled(method_name: str, kind: str) -> Scene:
    torch.manual_seed(0)
    target = mlp.build([5, 6, 4, 3]) if kind == "mlp" else convnet.build([1, 4, 4], [3, 2], 5, 3)
    shape = (5,) if kind == "mlp" else (1, 4, 4)
    target.eval().requires_grad_(False)
    trusted, sites, method_class = torch.randn(20, *shape), find_sites(target), METHODS.load(method_name)
    config = method_class.Config(components=6, **({"top_k": 3.0} if method_name == "apd" else {}))
    method: Method = method_class(target, sites, config, len(method_class.variants(config)))
    method.initialise(trusted_statistics(target, sites, trusted, "categorical"), torch.Generator().manual_seed(0))
    method.eval().requires_grad_(False)
    method.settle([trusted])
    method.double()
    return Scene(method, Observer(method), trusted.double(), torch.randn(9, *shape).double())


@pytest.fixture(scope="module", params=["spd-mlp", "spd-cnn", "apd-cnn"])
def scene(request) -> Scene:
    return settled(*request.param.split("-"))


@each_extractor
def test_features_are_finite_with_a_name_and_a_site_each(scene, name):
    patterns = scene.extract(scene.fitted(name), scene.fresh)
    assert patterns.values.shape == (len(scene.fresh), len(patterns.features))
    assert len(patterns.sites) == len(patterns.features) > 0
    assert np.isfinite(patterns.values).all()


@each_extractor
def test_names_are_unique(scene, name):
    features = scene.extract(scene.fitted(name), scene.fresh).features
    assert len(set(features)) == len(features)


@each_extractor
def test_sites_are_sites_of_the_model_or_none(scene, name):
    known = {site.name for site in scene.method.model.sites} | {"", "output", PREDICTED_CLASS}
    assert set(scene.extract(scene.fitted(name), scene.fresh).sites) <= known


@each_extractor
def test_a_row_has_the_same_features_alone_and_in_a_batch(scene, name):
    extractor = scene.fitted(name)
    together = scene.extract(extractor, scene.fresh).values
    alone = np.concatenate([scene.extract(extractor, row[None]).values for row in scene.fresh])
    scale = np.abs(together).max(0) + 1e-12
    np.testing.assert_allclose(alone / scale, together / scale, rtol=1e-5, atol=1e-9)


@each_extractor
def test_the_order_of_a_batch_is_kept(scene, name):
    extractor = scene.fitted(name)
    forward, backward = (scene.extract(extractor, x).values for x in (scene.fresh, scene.fresh.flip(0)))
    np.testing.assert_allclose(backward[::-1], forward, rtol=1e-5, atol=1e-9)


@each_extractor
def test_what_was_stored_and_restored_gives_the_same_features(scene, name, tmp_path):
    extractor, again = scene.fitted(name), scene.extractor(name)
    if extractor.state():
        save_tensors(extractor.state(), tmp_path / "state.safetensors")
        again.restore(load_tensors(tmp_path / "state.safetensors"))
    before, after = scene.extract(extractor, scene.fresh), scene.extract(again, scene.fresh)
    assert after.features == before.features
    np.testing.assert_allclose(after.values, before.values, rtol=1e-12, atol=1e-15)


@each_extractor
def test_fitting_twice_gives_the_same_bits(scene, name):
    first, second = (scene.extract(scene.fitted(name), scene.fresh).values for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_extractor
def test_extracting_changes_neither_the_method_nor_the_inputs(scene, name):
    before, x = {key: value.clone() for key, value in scene.method.state_dict().items()}, scene.fresh.clone()
    scene.extract(scene.fitted(name), scene.fresh)
    assert all(torch.equal(value, before[key]) for key, value in scene.method.state_dict().items())
    assert torch.equal(scene.fresh, x)


@each_extractor
def test_one_trusted_row_after_another_is_enough_to_fit_on(scene, name):
    extractor = scene.extractor(name)
    with torch.no_grad():
        extractor.fit(scene.observer.batches(scene.trusted, 1))
    assert np.isfinite(scene.extract(extractor, scene.fresh).values).all()


@each_extractor
def test_its_config_refuses_unknown_keys(name):
    with pytest.raises(ValidationError, match="maskz"):
        EXTRACTORS.load(name).Config(maskz=1)


@each_extractor
def test_it_carries_the_name_it_is_listed_under(name):
    assert EXTRACTORS.load(name).name == name


@each_extractor
def test_it_says_on_which_trusted_rows_detectors_are_fitted(name):
    assert EXTRACTORS.load(name).fitted_rows in ("fit", "validation")
