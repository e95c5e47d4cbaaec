"""Shares of parts in what they do together, and the fewest that do it."""

import pytest

from madpipe.editing.coalitions import shares, smallest_set


def both(chosen: frozenset[str]) -> float:
    """1 where a and b are both in, and 2 more for c."""
    return float({"a", "b"} <= chosen) + 2.0 * ("c" in chosen)


def test_two_parts_that_need_each_other_share_alike():
    assert shares(["a", "b", "c"], both) == pytest.approx({"a": 0.5, "b": 0.5, "c": 2.0})


def test_drawn_orders_give_an_additive_value_exactly_and_always_the_whole():
    names = [f"p{i}" for i in range(9)]  # too many for all 512 sets
    additive = shares(names, lambda chosen: float(sum(names.index(name) for name in chosen)))
    assert additive == pytest.approx({name: i for i, name in enumerate(names)})
    together = shares(names, lambda chosen: float(len(chosen) ** 2))
    assert sum(together.values()) == pytest.approx(81)


def test_each_set_is_asked_once():
    asked = []
    shares(["a", "b", "c"], lambda chosen: float(asked.append(chosen) or len(chosen)))
    assert len(asked) == len(set(asked)) == 8  # 2^3


def lacking_all_of(needed: set[str]):
    """A set lacks one for each needed part that is not in it."""

    def lacking(sets):
        return [(float(not needed <= chosen), float(len(needed - chosen))) for chosen in sets]

    return lacking


def test_the_fewest_parts_are_named_and_of_equals_the_cheapest():
    either = lambda sets: [(float(not chosen & {"b", "c"}), 0.0) for chosen in sets]  # noqa: E731
    assert smallest_set(["a", "b", "c"], either, lambda chosen: float("b" in chosen)) == {"c"}


@pytest.mark.parametrize("count", [4, 9])
def test_a_set_of_two_is_found_among_few_and_among_many(count):
    names = [f"p{i}" for i in range(count)]
    assert smallest_set(names, lacking_all_of({"p1", "p3"}), lambda chosen: 0.0) == {"p1", "p3"}


def test_all_parts_are_named_where_nothing_less_will_do():
    assert smallest_set(["a", "b"], lacking_all_of({"a", "b", "x"}), lambda chosen: 0.0) == {"a", "b"}


def test_a_share_of_inputs_may_be_let_go():
    half = lambda sets: [(0.5, 0.0) for _ in sets]  # noqa: E731
    assert len(smallest_set(["a", "b", "c"], half, lambda chosen: 0.0, allowed=0.5)) == 1
    assert len(smallest_set(["a", "b", "c"], half, lambda chosen: 0.0, allowed=0.4)) == 3
