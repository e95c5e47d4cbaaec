"""Subcomponents that are important together on trusted rows are one component, over all sites, in each instance."""

from types import SimpleNamespace

import pytest
import torch

from madpipe.decomposition.grouping import active_slots, group_subcomponents, slot_importances
from madpipe.decomposition.selection import select_seed

HOW = {"alpha": 1.0, "threshold": 0.01, "restarts": 0}


@pytest.fixture
def method(start, small_mlp, rows, monkeypatch):
    """Two seeds; row i of `rows` is about feature i % 5. In the first seed slot k of both sites is on for feature k; in
    the second slot k of fc1 for feature k, and slot k of head for feature 4 - k. The last slot is dead.
    """
    made = start("spd", small_mlp, rows, instances=2, seeds=2, variants=[{"name": "only"}])
    made.eval().requires_grad_(False)
    about = torch.arange(len(rows)) % 5
    straight, turned = torch.eye(5, 6)[about], torch.eye(5, 6).flip(0)[about]

    def activity(clean, x):
        assert torch.equal(x, rows[: len(x)])
        both = {"fc1": torch.stack([straight, straight]), "head": torch.stack([straight, turned])}
        return {site: 0.5 * g[:, : len(x)] for site, g in both.items()}

    monkeypatch.setattr(made, "activity", activity)
    for i in range(2):
        made.alive(i)[:, 5] = False
    return made


def members(view) -> set[tuple[tuple[str, int], ...]]:
    found: dict[int, list[tuple[str, int]]] = {}
    for site, labels in view.labels.items():
        for slot, component in enumerate(labels.tolist()):
            found.setdefault(component, []).append((site, slot))
    found.pop(-1, None)
    return {tuple(own) for own in found.values()}


def test_what_is_on_together_is_one_component_over_sites_in_each_instance(method, rows):
    group_subcomponents(method, [rows], **HOW)
    first, second = method.component_views()
    assert members(first) == {(("fc1", k), ("head", k)) for k in range(5)}
    assert members(second) == {(("fc1", k), ("head", 4 - k)) for k in range(5)}


def test_dead_subcomponents_are_in_no_component(method, rows):
    group_subcomponents(method, [rows], **HOW)
    assert all(view.labels[site][5] == -1 for view in method.component_views() for site in ("fc1", "head"))


def test_an_alive_one_that_is_silent_on_these_rows_is_a_component_by_itself(method, rows):
    method.alive(0)[:, 5] = True
    group_subcomponents(method, [rows], **HOW)
    assert (("fc1", 5),) in members(method.component_views()[0])
    assert method.component_views()[0].count == 6


def test_importances_at_the_threshold_are_not_active(method, rows):
    assert active_slots(method, rows, 0.49).sum() == 2 * 2 * len(rows)
    assert not active_slots(method, rows, 0.5).any()


def test_grouping_draws_nothing_and_twice_is_the_same(method, rows):
    before = torch.get_rng_state()
    views = []
    for _ in range(2):
        group_subcomponents(method, [rows], **(HOW | {"restarts": 2}))
        views.append(members(method.component_views()[0]))
    assert views[0] == views[1]
    assert torch.equal(before, torch.get_rng_state())


def test_a_chosen_seed_keeps_its_own_components(method, rows):
    group_subcomponents(method, [rows], **HOW)
    alone = select_seed(method, 1)
    assert len(alone.component_views()) == 1
    assert members(alone.component_views()[0]) == members(method.component_views()[1])


def test_with_nothing_alive_there_is_no_component(method, rows):
    for i in range(2):
        method.alive(i)[:] = False
    group_subcomponents(method, [rows], **HOW)
    assert [view.count for view in method.component_views()] == [0, 0]


def test_where_components_span_sites_nothing_is_grouped(start, small_mlp, rows):
    method = start("apd", small_mlp, rows)
    group_subcomponents(method, [rows], **HOW)
    assert method.clusters is None


def test_over_positions_the_largest_importance_counts():
    g = torch.tensor([[[[0.1, 0.7], [0.3, 0.2]]]])  # one instance, one input, two positions, two slots
    model = SimpleNamespace(clean_forward=lambda x: None)
    method = SimpleNamespace(model=model, activity=lambda clean, x: {"conv": g})
    assert slot_importances(method, torch.zeros(1))["conv"].tolist() == g.amax(2).tolist()
