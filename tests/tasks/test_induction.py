"""Sequences of the induction task: what the table answers, what is copied, and what the target learns."""

import numpy as np
import pytest

from madpipe.tasks.build import build_task
from madpipe.tasks.induction import LENGTH, VOCABULARY, Language, neither


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def language() -> Language:
    return Language(np.roll(np.arange(VOCABULARY), -1))  # each token is followed by the next number


def earlier(tokens: np.ndarray) -> np.ndarray:
    """Where the last token stands earlier, bool [n, LENGTH - 1]."""
    return tokens[:, :-1] == tokens[:, -1:]


def test_neither_of_two_tokens_is_drawn_and_all_others_are():
    drawn = neither(np.full(5000, 3), np.full(5000, 7), rng())
    assert set(drawn.tolist()) == set(range(VOCABULARY)) - {3, 7}


def test_only_the_table_answers_a_bigram(language):
    tokens, following = language.bigram(2000, rng())
    assert not earlier(tokens).any()
    assert (following == (tokens[:, -1] + 1) % VOCABULARY).all()


@pytest.mark.parametrize("conflict", [False, True])
def test_induction_copies_what_followed_the_last_token_before(language, conflict):
    tokens, following = language.induction(2000, rng(), conflict=conflict)
    rows, places = np.nonzero(earlier(tokens))
    assert (rows == np.arange(2000)).all()  # it stands earlier exactly once
    assert (tokens[rows, places + 1] == following).all()
    assert places.max() < LENGTH - 2
    agrees = following == (tokens[:, -1] + 1) % VOCABULARY
    assert agrees.all() if not conflict else not agrees.any()


def test_half_of_the_rows_hold_another_pair_of_the_table_twice(language):
    for tokens in (language.bigram(4000, rng())[0], language.induction(4000, rng(), conflict=False)[0]):
        # Standard error sqrt(.25 / 4000) = .008; pairs that stand twice by chance are rarer than that.
        assert language.repeats_another(tokens).mean() == pytest.approx(0.5, abs=0.04)


def test_a_pair_that_stands_twice_is_seen(language):
    once, twice = np.full((2, LENGTH), 9)
    once[:2] = twice[:2] = twice[4:6] = 2, 3
    assert language.repeats_another(np.stack([once, twice])).tolist() == [False, True]


@pytest.mark.slow
def test_both_mechanisms_are_learnt_and_the_positives_say_the_same():
    task = build_task({"name": "induction"})
    assert task.facts["clean_accuracy"] > 0.99
    assert task.facts["induction_accuracy"] > 0.95
    assert task.facts["attack_success"] > 0.99
    assert sorted(task.mechanisms["table"]) == list(range(VOCABULARY))
