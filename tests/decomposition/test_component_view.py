"""Slots to components: each component's slots lie at any sites, and none is in two."""

import pytest
import torch

from madpipe.decomposition.component_view import ComponentView, largest_of_groups
from madpipe.errors import ConfigError

SLOTS = {"fc1": 3, "head": 2}


@pytest.fixture
def view() -> ComponentView:
    """component.0: fc1.1 and head.0; component.1: fc1.0 alone; fc1.2 and head.1 are in none."""
    return ComponentView.of_groups([(1, 3), (0,)], SLOTS)


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    return {"fc1": torch.tensor([[1.0, 2.0, 9.0], [-4.0, 0.5, 9.0]]), "head": torch.tensor([[-3.0, 9.0], [0.1, 9.0]])}


def test_positions_among_the_slots_of_all_sites_become_labels_of_each(view):
    assert {site: labels.tolist() for site, labels in view.labels.items()} == {"fc1": [1, 0, -1], "head": [0, -1]}


def test_components_are_named_and_know_the_sites_they_span(view):
    assert view.names == ["component.0", "component.1"]
    assert view.spans == ["fc1+head", "fc1"]


def test_of_a_components_slots_the_largest_magnitude_counts_with_its_sign(view, values):
    assert view.largest(values).tolist() == [[-3.0, 1.0], [0.5, -4.0]]


def test_of_importances_that_is_whether_any_slot_is_on(view):
    generator = torch.Generator().manual_seed(0)
    on = {site: (torch.rand(50, k, generator=generator) < 0.3).float() for site, k in SLOTS.items()}
    assert torch.equal(view.largest(on)[:, 0], torch.maximum(on["fc1"][:, 1], on["head"][:, 0]))


def test_sums_are_over_slots_of_all_sites(view, values):
    torch.testing.assert_close(view.total(values), torch.tensor([[-1.0, 1.0], [0.6, -4.0]]))  # 2 - 3, 0.5 + 0.1


def test_sums_over_one_site_leave_out_the_others(view, values):
    torch.testing.assert_close(view.total({"head": values["head"]}), torch.tensor([[-3.0, 0.0], [0.1, 0.0]]))


def test_more_axes_in_front_are_kept(view, values):
    deeper = {site: value[None].repeat(4, 1, 1) for site, value in values.items()}
    for combine in (ComponentView.largest, ComponentView.total):
        assert torch.equal(combine(view, deeper)[3], combine(view, values))


def test_an_empty_group_is_zero():
    assert largest_of_groups(torch.tensor([[-2.0, 1.0]]), torch.tensor([2, 2]), 3).tolist() == [[0.0, 0.0, -2.0]]


def test_without_a_component_there_is_no_column():
    view = ComponentView.of_groups([], SLOTS)
    assert view.largest({site: torch.rand(7, k) for site, k in SLOTS.items()}).shape == (7, 0)
    assert (view.names, view.spans) == ([], [])


def test_where_components_span_sites_the_view_is_the_method_s_own(start, small_mlp, rows):
    method = start("apd", small_mlp, rows, components=3, rank=2)
    (view,) = method.component_views()
    assert view.count == 3
    assert all(labels.tolist() == [0, 0, 1, 1, 2, 2] for labels in view.labels.values())
    assert view.names == method.component_names()


def test_before_subcomponents_are_grouped_there_is_no_view(start, small_mlp, rows):
    method = start("spd", small_mlp, rows)
    assert not method.has_components
    with pytest.raises(ConfigError, match="clustering.enabled"):
        method.component_views()
