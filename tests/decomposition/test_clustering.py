"""Clustering of subcomponents, held to its definition, to brute force and to planted groups."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from madpipe.decomposition.clustering import Clustering, _Grouping, _packed, cluster, description_length

Partition = list[list[int]]

activities = st.tuples(st.integers(1, 40), st.integers(1, 7)).flatmap(lambda shape: arrays(bool, shape))
alphas = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 20.0])


def planted(
    sizes: Sequence[int], rate: float, *, misses: float = 0.0, false_alarms: float = 0.0, seed: int = 0
) -> tuple[Tensor, set[tuple[int, ...]]]:
    """Activity [4000, K] in which groups of `sizes` are on at `rate`, columns shuffled; and the groups."""
    generator = torch.Generator().manual_seed(seed)
    group_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    group_of = group_of[torch.randperm(len(group_of), generator=generator)]
    active = (torch.rand(4000, len(sizes), generator=generator) < rate)[:, group_of]
    active &= torch.rand(active.shape, generator=generator) >= misses
    active |= torch.rand(active.shape, generator=generator) < false_alarms
    return active, {tuple((group_of == group).nonzero().flatten().tolist()) for group in range(len(sizes))}


def disjoint(count: int) -> Tensor:
    """Each of `count` subcomponents is active on one input, and no input has two."""
    return torch.eye(count, dtype=torch.bool)


def random_activity(seed: int, rows: int = 20, count: int = 6) -> Tensor:
    return torch.rand(rows, count, generator=torch.Generator().manual_seed(seed)) < 0.4


def partitions(items: list[int]) -> Iterator[Partition]:
    if not items:
        yield []
        return
    for partition in partitions(items[1:]):
        yield [[items[0]], *partition]
        for i, group in enumerate(partition):
            yield [*partition[:i], [items[0], *group], *partition[i + 1 :]]


def cheapest(active: Tensor, alpha: float) -> float:
    alive = active.any(0).nonzero().flatten().tolist()
    return min(description_length(active, partition, alpha) for partition in partitions(alive))


def greedy_by_definition(active: Tensor, alpha: float) -> float:
    """Every merge of every step costed anew, down to one group; the least cost seen."""
    groups: Partition = [[k] for k in range(active.shape[1])]
    costs = [description_length(active, groups, alpha)]
    while len(groups) > 1:
        merged = [
            [*(g for n, g in enumerate(groups) if n not in (i, j)), groups[i] + groups[j]]
            for i, j in combinations(range(len(groups)), 2)
        ]
        groups = min(merged, key=lambda candidate: description_length(active, candidate, alpha))
        costs.append(description_length(active, groups, alpha))
    return min(costs)


def test_the_description_length_of_two_groups_by_hand():
    active = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]).bool()
    # {0, 1} is active on 2 of 4 inputs with rank 2, {2} on 1 of 4 with rank 1; log2 2 = 1:
    # 0.5 (1 + 3 x 2) + 0.25 (1 + 3 x 1) = 3.5 + 1 = 4.5
    assert description_length(active, [[0, 1], [2]], alpha=3.0) == pytest.approx(4.5)
    # Ranks 2, 1 and 4 instead: 0.5 (1 + 3 x 3) + 0.25 (1 + 3 x 4) = 5 + 3.25
    assert description_length(active, [[0, 1], [2]], 3.0, torch.tensor([2, 1, 4])) == pytest.approx(8.25)


@given(activities, alphas)
def test_the_cost_reported_is_that_of_the_groups(rows, alpha):
    active = torch.from_numpy(rows)
    found = cluster(active, alpha=alpha)
    assert found.bits == pytest.approx(description_length(active, found.groups, alpha), abs=1e-9)
    assert found.alpha == alpha


@given(activities, alphas)
def test_groups_and_dead_ones_are_all_subcomponents_once(rows, alpha):
    found = cluster(torch.from_numpy(rows), alpha=alpha)
    assert sorted([*found.dead, *(k for group in found.groups for k in group)]) == list(range(rows.shape[1]))
    assert all(list(group) == sorted(group) for group in found.groups)


@given(activities, alphas)
def test_the_cost_is_never_above_that_of_single_subcomponents(rows, alpha):
    active = torch.from_numpy(rows)
    singles = active.any(0).nonzero().tolist()
    assert cluster(active, alpha=alpha).bits <= description_length(active, singles, alpha) + 1e-9


@given(activities, alphas, st.data())
def test_permuted_subcomponents_are_in_permuted_groups(rows, alpha, data):
    order = data.draw(st.permutations(range(rows.shape[1])))
    before = cluster(torch.from_numpy(rows), alpha=alpha, restarts=2)
    after = cluster(torch.from_numpy(rows[:, order]), alpha=alpha, restarts=2)
    assert {frozenset(order[k] for k in group) for group in after.groups} == set(map(frozenset, before.groups))
    assert after.bits == before.bits


def test_equal_merges_are_chosen_by_content_not_by_place():
    order = [2, 0, 3, 1]
    before, after = cluster(disjoint(4), alpha=0.9), cluster(disjoint(4)[:, order], alpha=0.9)
    assert {frozenset(order[k] for k in group) for group in after.groups} == set(map(frozenset, before.groups))


@given(activities, alphas)
def test_subcomponents_active_on_the_same_inputs_share_a_group(rows, alpha):
    labels = cluster(torch.from_numpy(rows), alpha=alpha).labels()
    for i, j in combinations(range(rows.shape[1]), 2):
        assert (rows[:, i] != rows[:, j]).any() or labels[i] == labels[j]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(5))
def test_no_assignment_costs_less_than_the_brute_force_optimum(seed, alpha):
    active = random_activity(seed)
    optimum = cheapest(active, alpha)
    assert optimum - 1e-9 <= cluster(active, alpha=alpha, restarts=3).bits <= cluster(active, alpha=alpha).bits + 1e-9


@pytest.mark.parametrize("alpha", [0.5, 2.0, 5.0])
def test_on_planted_groups_greedy_merging_finds_the_brute_force_optimum(alpha):
    active, _ = planted([3, 2, 1], rate=0.1, misses=0.1)
    assert cluster(active, alpha=alpha).bits == pytest.approx(cheapest(active, alpha))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("seed", [0, 4, 5])  # at 4, 5 and alpha 2, log2 k in place of log2(k - 1) ends elsewhere
def test_each_step_takes_the_cheapest_of_all_merges(seed, alpha):
    active = random_activity(seed, rows=300, count=12)
    assert cluster(active, alpha=alpha).bits == pytest.approx(greedy_by_definition(active, alpha))


def test_what_a_merge_costs_at_least_is_a_lower_bound_all_the_way():
    grouping = _Grouping(_packed(random_activity(0, rows=300, count=30)), np.ones(30), alpha=0.3)
    while len(grouping.sizes) > 2:
        grouping.merge(*grouping.cheapest_merge())
        assert (grouping.floor <= grouping.merge_costs(np.arange(len(grouping.sizes))).min(1)).all()


@pytest.mark.parametrize(("alpha", "groups"), [(0.4, 1), (0.6, 2), (0.9, 2), (1.1, 4)])
def test_four_that_never_fire_together_merge_at_a_small_alpha_only(alpha, groups):
    # With s each: four groups cost 4s (2 + alpha), two 4s (1 + 2 alpha), one 4s (4 alpha); equal at alpha = 1 and 1/2.
    # At 0.9 the first merge costs more, as 4 log2(4/3) = 1.66 < 2 x 0.9, and the second pays for both.
    assert len(cluster(disjoint(4), alpha=alpha).groups) == groups


@pytest.mark.parametrize("alpha", [1.0, 2.0, 5.0, 20.0, 1000.0])
def test_subcomponents_that_always_fire_together_are_recovered(alpha):
    active, groups = planted([1, 2, 3, 4, 5, 8], rate=0.1)
    assert set(cluster(active, alpha=alpha).groups) == groups


@pytest.mark.parametrize("alpha", [2.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_recovered_through_misses_and_false_alarms(seed, alpha):
    active, groups = planted([1, 2, 3, 4, 5, 8], rate=0.1, misses=0.2, false_alarms=0.001, seed=seed)
    assert set(cluster(active, alpha=alpha).groups) == groups


def test_independent_rare_subcomponents_stay_single_at_a_large_alpha():
    active, singles = planted([1] * 30, rate=0.02)
    assert set(cluster(active, alpha=2.0).groups) == singles


def test_at_alpha_zero_all_are_one_group_that_costs_nothing():
    found = cluster(planted([1, 2, 3], rate=0.1)[0], alpha=0.0)
    assert (found.groups, found.bits) == ((tuple(range(6)),), 0.0)


def test_a_larger_alpha_never_gives_fewer_groups():
    active, _ = planted([1, 2, 3, 4, 5, 8], rate=0.1, misses=0.2, false_alarms=0.001)
    counts = [len(cluster(active, alpha=alpha).groups) for alpha in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 23)  # 1 + 2 + 3 + 4 + 5 + 8 = 23


def test_dead_subcomponents_are_reported_and_change_nothing():
    active, _ = planted([1, 2], rate=0.1)
    found = cluster(torch.cat([torch.zeros(4000, 1, dtype=torch.bool), active], dim=1))
    assert found.dead == (0,)
    assert found.bits == cluster(active).bits
    assert found.labels()[0] == -1


def test_where_all_are_dead_there_is_no_group():
    found = cluster(torch.zeros(5, 3, dtype=torch.bool))
    assert found == Clustering(groups=(), dead=(0, 1, 2), bits=0.0, alpha=1.0)


def test_always_active_subcomponents_are_one_group_which_comes_first():
    active, groups = planted([2, 3], rate=0.1)
    always = torch.ones(4000, 2, dtype=torch.bool)
    found = cluster(torch.cat([active, always], dim=1), alpha=20.0)
    assert found.groups[0] == (5, 6)
    assert set(found.groups[1:]) == groups


def test_groups_are_in_order_of_activity():
    active, _ = planted([2] * 8, rate=0.1)
    sizes = [int(active[:, list(group)].any(1).sum()) for group in cluster(active, alpha=2.0).groups]
    assert sizes == sorted(sizes, reverse=True)


def test_ranks_twice_as_large_are_an_alpha_twice_as_large():
    active = random_activity(3, rows=100)
    doubled = cluster(active, alpha=0.5, ranks=torch.full((6,), 2))
    ones = cluster(active, alpha=1.0)
    assert doubled.groups == ones.groups
    assert doubled.bits == pytest.approx(ones.bits)


def test_the_cost_counts_the_given_ranks():
    active, ranks = random_activity(5, rows=100), torch.tensor([1, 5, 2, 1, 3, 1])
    found = cluster(active, alpha=0.3, ranks=ranks)
    assert found.bits == pytest.approx(description_length(active, found.groups, 0.3, ranks))


def test_restarts_find_what_the_greedy_path_misses():
    active = random_activity(12)
    assert cluster(active, restarts=10).bits == pytest.approx(cheapest(active, 1.0))
    assert cluster(active).bits > cheapest(active, 1.0) + 0.2


def test_restarts_are_the_same_from_the_same_seed():
    active = random_activity(0, rows=60, count=20)
    runs = [cluster(active, restarts=3, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_without_a_generator_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    assert cluster(random_activity(12), restarts=3) == cluster(random_activity(12), restarts=3)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_name_the_group_of_each_subcomponent():
    found = Clustering(groups=((1, 3), (0,)), dead=(2,), bits=0.0, alpha=1.0)
    assert found.labels().tolist() == [1, 0, -1, 0]
    assert found.labels().dtype == torch.int64


def test_importances_are_refused_until_they_are_made_binary():
    with pytest.raises(AssertionError):
        cluster(torch.rand(5, 3))


def test_more_inputs_than_a_word_has_bits_are_counted():
    rows = np.zeros((130, 2), bool)  # three words of 64
    rows[[0, 63, 64, 129], 0] = rows[[129], 1] = True
    found = cluster(torch.from_numpy(rows), alpha=100.0)
    # log2 2 = 1: (4 (1 + 100) + 1 (1 + 100)) / 130
    assert found.bits == pytest.approx(505 / 130)
    assert math.isclose(found.bits, description_length(torch.from_numpy(rows), found.groups, 100.0))
