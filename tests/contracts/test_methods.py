"""What every registered method keeps, its table being the list."""

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from madpipe.components.checkpoint import load_tensors
from madpipe.components.sites import find_sites
from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.quality import quality
from madpipe.decomposition.statistics import trusted_statistics
from madpipe.pipeline.stored_decomposition import load_decomposition, save_decomposition
from madpipe.registry import METHODS
from madpipe.targets import convnet, mlp

STEPS = 4
TARGETS = {"mlp": (lambda: mlp.build([5, 6, 3]), (5,)), "cnn": (lambda: convnet.build([1, 4, 4], [3], 5, 3), (1, 4, 4))}
each_method = pytest.mark.parametrize("name", METHODS)


@dataclasses.dataclass(frozen=True)
class Trained:
    method: Method
    target: nn.Module
    trusted: Tensor
    terms: list[dict[str, Tensor]]


def started(name: str, target: nn.Module, trusted: Tensor) -> Method:
    method_class, sites = METHODS.load(name), find_sites(target)
    config = method_class.Config(steps=STEPS, batch_size=8)
    method: Method = method_class(target, sites, config, len(method_class.variants(config)))
    method.initialise(trusted_statistics(target, sites, trusted, "categorical"), torch.Generator().manual_seed(0))
    return method


@pytest.fixture(scope="module", params=[(name, kind) for name in METHODS for kind in TARGETS], ids="-".join)
def trained(request) -> Trained:
    """Four steps on a tiny network, then settled. Shared: no test changes it."""
    name, kind = request.param
    torch.manual_seed(0)
    build, shape = TARGETS[kind]
    target, trusted = build().eval().requires_grad_(False), torch.randn(24, *shape)
    method = started(name, target, trusted)
    optimizer, rows = make_optimizer(method), [torch.arange(24)] * method.model.instances
    terms = [take_step(method, optimizer, draw_batch(method, trusted, rows, s, 0), s) for s in range(STEPS)]
    method.eval().requires_grad_(False)
    method.settle(trusted.split(10))
    return Trained(method, target, trusted, terms)


def activity(method: Method, x: Tensor) -> dict[str, Tensor]:
    return method.activity(method.model.clean_forward(x), x)


def test_every_term_is_finite_and_one_number_per_instance(trained):
    for terms in trained.terms:
        for term, value in terms.items():
            assert value.isfinite().all(), term
            assert value.ndim == 0 or value.shape == (trained.method.model.instances,), term


def test_the_total_is_among_the_terms_with_a_number_per_instance(trained):
    assert all(terms["total"].shape == (trained.method.model.instances,) for terms in trained.terms)


def test_training_moves_the_slots(trained):
    fresh = started(trained.method.name, trained.target, trained.trusted)
    model = trained.method.model
    for before, after in zip([*fresh.model.V, *fresh.model.U], [*model.V, *model.U], strict=True):
        assert not torch.equal(before, after)


def test_the_copy_of_the_target_is_the_target_still(trained):
    own, kept = trained.target.state_dict(), trained.method.model.target.state_dict()
    assert all(torch.equal(own[key], kept[key]) for key in own)


def test_variants_have_names_of_their_own_and_an_instance_each(trained):
    names = trained.method.variant_names
    assert len(set(names)) == len(names) == trained.method.model.instances
    assert len(trained.method.matches_hidden()) == len(names)
    assert any(trained.method.matches_hidden())


def test_components_have_names_of_their_own(trained):
    names = trained.method.component_names()
    assert len(set(names)) == len(names) > 0


def test_activity_is_finite_and_not_negative_at_every_slot_of_every_input(trained):
    method = trained.method
    found = activity(method, trained.trusted)
    assert list(found) == [site.name for site in method.model.sites]
    for (site, g), k in zip(found.items(), method.model.slots, strict=True):
        assert (g.shape[:2], g.shape[-1]) == ((method.model.instances, 24), k), site
        assert g.isfinite().all()
        assert (g >= 0).all()


def test_activity_does_not_depend_on_the_rest_of_the_batch(trained):
    together = activity(trained.method, trained.trusted)
    for row in range(0, 24, 5):
        for site, g in activity(trained.method, trained.trusted[row : row + 1]).items():
            torch.testing.assert_close(g[:, 0], together[site][:, row], rtol=1e-4, atol=1e-5)


def test_something_is_alive_and_alive_sets_are_of_slots(trained):
    for i, k in enumerate(trained.method.model.slots):
        alive = trained.method.alive(i)
        assert (alive.dtype, alive.shape) == (torch.bool, (trained.method.model.instances, k))
    assert any(bool(trained.method.alive(i).any()) for i in range(len(trained.method.model.slots)))


def test_quality_is_finite_for_every_variant(trained):
    found = quality(trained.method, trained.trusted.split(10))
    assert {key.split("/")[1] for key in found} == set(trained.method.variant_names)
    assert all(value == value and abs(value) < 1e30 for value in found.values())


def test_a_stored_decomposition_has_the_same_state_to_the_bit(trained, tmp_path):
    save_decomposition(trained.method, tmp_path, {"l0/x": 1.0})
    loaded = load_decomposition(tmp_path, trained.target)
    before, after = trained.method.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_stored_decomposition_is_as_active_and_as_alive_as_before(trained, tmp_path):
    save_decomposition(trained.method, tmp_path, {})
    loaded = load_decomposition(tmp_path, trained.target)
    before, after = activity(trained.method, trained.trusted), activity(loaded, trained.trusted)
    assert all(torch.equal(before[site], after[site]) for site in before)
    assert loaded.variant_names == trained.method.variant_names
    assert loaded.hidden_sites() == trained.method.hidden_sites()


def test_a_stored_decomposition_measures_outputs_as_before(trained, tmp_path):
    save_decomposition(trained.method, tmp_path, {})
    loaded = load_decomposition(tmp_path, trained.target)
    assert loaded.statistics.metric == trained.method.statistics.metric
    assert loaded.config == trained.method.config


def test_a_stored_decomposition_does_not_hold_the_target(trained, tmp_path):
    save_decomposition(trained.method, tmp_path, {})
    assert not [key for key in load_tensors(tmp_path / "components.safetensors") if key.startswith("model.target.")]


def test_a_pass_in_float64_is_possible(trained, tmp_path):
    save_decomposition(trained.method, tmp_path, {})
    precise = load_decomposition(tmp_path, trained.target).double()
    for g in activity(precise, trained.trusted.double()).values():
        assert g.dtype == torch.float64


@each_method
def test_its_config_refuses_unknown_keys(name):
    with pytest.raises(ValidationError, match="stepz"):
        METHODS.load(name).Config(stepz=3)


@each_method
def test_its_config_has_a_default_for_everything(name):
    config = METHODS.load(name).Config()
    assert METHODS.load(name).Config.model_validate(config.model_dump(mode="json")) == config


@each_method
def test_it_carries_the_name_it_is_listed_under(name):
    assert METHODS.load(name).name == name


@each_method
def test_its_module_cites_its_paper(name):
    assert "arXiv" in (__import__(METHODS[name].partition(":")[0], fromlist=["_"]).__doc__ or "")
