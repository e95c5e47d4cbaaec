"""Features and named parts of components: clusters of subcomponents over all sites, or APD's own components."""

import numpy as np
import pytest
import torch

from madpipe.decomposition.attributions import output_gradients, slot_contributions
from madpipe.decomposition.component_attributions import component_attributions
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.method import Method
from madpipe.patterns.attributions import Attributions
from madpipe.patterns.causal_importances import CausalImportances
from madpipe.patterns.extractor import SlotConfig, SlotExtractor
from madpipe.patterns.inner_activations import InnerActivations
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import Observer

COMPONENTS = SlotConfig(view="components")
SLOTS = {"fc1": 8, "fc2": 8, "head": 8}


@pytest.fixture
def grouped(partial) -> Method:
    """Alive slots are the even ones. hidden joins fc1.2 and head.4, output also fc1.0, fc2.0 and fc2.2."""
    together = [(2, 20)], [(2, 20), (0, 8, 10)]
    alive = [site * 8 + k for site in range(3) for k in range(0, 8, 2)]
    views = []
    for groups in together:
        used = {k for group in groups for k in group}
        views.append(ComponentView.of_groups([*groups, *((k,) for k in alive if k not in used)], SLOTS))
    partial.clusters = tuple(reversed(views))  # output, hidden
    return partial


def features(extractor: SlotExtractor, observation) -> dict[str, np.ndarray]:
    patterns = extractor.extract(observation)
    return dict(zip(patterns.features, patterns.values.T, strict=True))


@pytest.mark.parametrize("extractor", [CausalImportances, InnerActivations, Attributions])
def test_features_are_the_components_of_each_variant_with_the_sites_they_span(grouped, rows, observe, extractor):
    patterns = extractor(COMPONENTS, grouped).extract(observe(grouped, rows))
    # 12 alive slots; output has 2 + 7 components, hidden 1 + 10
    assert patterns.features == tuple(
        f"{variant}:component.{n}" for variant, count in (("output", 9), ("hidden", 11)) for n in range(count)
    )
    assert patterns.sites[:2] == ("fc1+head", "fc1+fc2")
    assert patterns.values.dtype == np.float32


def test_a_component_is_as_important_as_its_most_important_subcomponent(grouped, rows, observe):
    observation = observe(grouped, rows)
    found = features(CausalImportances(COMPONENTS, grouped), observation)
    own = torch.maximum(observation.activity["fc1"][1, :, 2], observation.activity["head"][1, :, 4])
    np.testing.assert_allclose(found["hidden:component.0"], own, rtol=1e-6)


def test_of_inner_activations_the_largest_counts_with_its_sign(grouped, rows, observe):
    observation = observe(grouped, rows)
    found = features(InnerActivations(COMPONENTS, grouped), observation)["hidden:component.0"]
    slots = features(InnerActivations(SlotConfig(), grouped), observation)
    both = np.stack([slots["hidden:fc1.2"], slots["hidden:head.4"]])
    np.testing.assert_array_equal(found, both[np.abs(both).argmax(0), np.arange(len(rows))])
    assert (found < 0).any()
    assert (found > 0).any()


def test_attributions_add_up_over_a_components_sites_before_they_are_squared(grouped, rows, observe):
    found = features(Attributions(COMPONENTS, grouped), observe(grouped, rows))["hidden:component.0"]
    gradients = output_gradients(grouped.model, rows)
    at_fc1, at_head = (slot_contributions(grouped.model, i, gradients)[1, :, :, k] for i, k in ((0, 2), (2, 4)))
    np.testing.assert_allclose(found, (at_fc1 + at_head).square().mean(0).sqrt(), rtol=1e-5)


def test_apd_has_the_attributions_of_its_own_components(apd, rows, observe):
    patterns = Attributions(COMPONENTS, apd).extract(observe(apd, rows))
    assert patterns.features == tuple(f"apd:component.{c}" for c in range(5))
    assert set(patterns.sites) == {"fc1+fc2+head"}
    np.testing.assert_allclose(patterns.values, component_attributions(apd.model, rows, 2)[0], rtol=1e-5)


@pytest.mark.parametrize("extractor", [CausalImportances, InnerActivations, Attributions])
def test_a_row_has_the_same_features_alone_and_in_a_batch(grouped, rows, observe, extractor):
    made = extractor(COMPONENTS, grouped)
    together = made.extract(observe(grouped, rows)).values
    alone = np.concatenate([made.extract(observe(grouped, row[None])).values for row in rows])
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-7)


# Parts


def involvement_of(method, rows) -> Involvement:
    involvement = Involvement(Observer(method), "components")
    involvement.fit(Observer(method).batches(rows, 16))
    return involvement


def test_parts_are_components_with_their_sites_and_a_delta_per_site(grouped, rows):
    names = involvement_of(grouped, rows).names
    assert "component.0@fc1+head" in names
    assert {name for name in names if name.startswith("delta@")} == {"delta@fc1", "delta@fc2", "delta@head"}
    assert len(set(names)) == len(names) == 11 + 3


def test_a_component_is_as_involved_as_its_most_involved_slot_against_what_is_usual(grouped, rows, observe):
    involvement, slots = involvement_of(grouped, rows), Involvement(Observer(grouped))
    slots.fit(Observer(grouped).batches(rows, 16))
    seen = observe(grouped, rows)
    single = slots.ratios(seen)
    largest = torch.maximum(*(single[:, slots.names.index(name)] for name in ("fc1.2", "head.4")))
    found = involvement.ratios(seen)[:, involvement.names.index("component.0@fc1+head")]
    torch.testing.assert_close(found, largest / torch.quantile(largest, 0.95))


def test_what_was_stored_and_restored_names_the_same_parts(grouped, rows, observe):
    involvement, again = involvement_of(grouped, rows), Involvement(Observer(grouped), "components")
    again.restore(involvement.state())
    seen = observe(grouped, rows)
    assert again.top(seen, 4) == involvement.top(seen, 4)


def test_in_the_components_view_apd_has_one_part_over_all_sites_for_each_component(apd, rows):
    names = involvement_of(apd, rows).names
    assert {name for name in names if not name.startswith("delta@")} == {
        f"component.{c}@fc1+fc2+head" for c in range(5)
    }
