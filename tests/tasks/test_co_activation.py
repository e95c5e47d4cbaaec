"""Novel pairs of features: which rows hold them, and that nothing else tells rows apart."""

import numpy as np
import pytest
import torch

from madpipe.errors import ConfigError
from madpipe.tasks.build import build_task
from madpipe.tasks.co_activation import Pairs, draw
from madpipe.tasks.superposition import Tied

PAIRS = Pairs(6, np.array([[4, 1], [0, 3]]))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def identity() -> Tied:
    """Gives six features back as they are."""
    module = Tied(6, 6).requires_grad_(False)
    module.weight.copy_(torch.eye(6))
    return module


def test_a_pair_is_held_where_both_features_are_on():
    x = np.zeros((4, 6), np.float32)
    x[1, [1, 4]] = x[2, [0, 1]] = 0.2
    x[3] = 1
    assert PAIRS.held(x).tolist() == [0, 1, 0, 2]


def test_known_pairs_are_all_but_the_novel_ones():
    known = {tuple(pair) for pair in PAIRS.known().tolist()}
    assert len(known) == 13  # 6 * 5 / 2 = 15, less two
    assert not known & {(1, 4), (0, 3)}


def test_near_misses_are_made_of_features_of_two_novel_pairs():
    assert PAIRS.near_misses().tolist() == [[0, 1], [0, 4], [1, 3], [3, 4]]


@pytest.mark.parametrize(("about", "held"), [("known", 0), ("near_misses", 0), ("novel", 1)])
def test_a_novel_pair_is_on_only_where_the_row_is_about_it(identity, about, held):
    pairs = PAIRS.novel if about == "novel" else getattr(PAIRS, about)()
    rows, kept = draw(PAIRS, pairs, identity, 500, rng())
    assert rows.shape == (500, 6)
    assert (PAIRS.held(rows) == held).all()
    assert kept == 1


def test_rows_about_novel_and_known_pairs_have_as_many_features_on(identity):
    counts = [(draw(PAIRS, of, identity, 4000, rng())[0] > 0).sum(axis=1) for of in (PAIRS.novel, PAIRS.near_misses())]
    # Four others on with p = 0.05 make 2.2; chance pairs are refused, which costs novel rows (one pair) less than near
    # misses (two features whose partners must be off): 4 * .05 - 2 * .05^2 against 2 * .05.
    assert counts[0].mean() == pytest.approx(2.2, abs=0.03)
    assert counts[1].mean() == pytest.approx(2.1, abs=0.03)


def test_rows_that_are_not_given_back_are_drawn_again(identity):
    identity.bias.fill_(-0.3)  # a feature below 0.6 loses more than half
    rows, kept = draw(PAIRS, PAIRS.novel, identity, 500, rng())
    on = np.where(rows[:, [4, 0]] > 0, 1, 0)
    assert on.sum() >= 500
    assert kept == pytest.approx(0.8**2, abs=0.04)  # both of U[.5, 1] are at least .6


def test_pairs_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"task.novel: .* too few features \(6\) for disjoint pairs, got 4"):
        build_task({"name": "co_activation", "features": 6, "hidden": 3})


def test_a_toy_that_cannot_be_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="task.hidden: .* fewer hidden dimensions than features") as caught:
        build_task({"name": "co_activation", "features": 20, "hidden": 20})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_both_features_are_given_back_on_most_rows():
    task = build_task({"name": "co_activation"})
    assert task.facts["clean_accuracy"] > 0.85
    assert task.facts["attack_success"] > 0.85
    assert len(task.mechanisms["novel_pairs"]) == 4
    assert (Pairs(20, np.asarray(task.mechanisms["novel_pairs"])).held(task.test) == task.is_anomalous).all()
