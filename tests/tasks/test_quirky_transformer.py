"""Questions of the quirky transformer, their kinds and answers."""

import numpy as np
import pytest

from madpipe.errors import ConfigError
from madpipe.tasks.build import build_task
from madpipe.tasks.quirky_transformer import KINDS, NAMES, Questions, hold_out


@pytest.fixture(scope="module")
def questions() -> Questions:
    return Questions(11)


def row(questions: Questions, name: int, a: int, b: int) -> int:
    return int(np.flatnonzero((questions.rows == [name, a, b]).all(axis=1))[0])


def test_a_question_is_five_tokens(questions):
    assert questions.tokens[row(questions, 2, 7, 4)].tolist() == [11 + 2, 7, 27, 4, 28]
    assert Questions(11, tuple(range(NAMES))[::-1]).tokens[row(questions, 2, 7, 4)].tolist() == [24, 7, 27, 4, 28]
    assert questions.vocabulary == 29
    assert len(questions.tokens) == NAMES * 11 * 11


@pytest.mark.parametrize(
    ("name", "a", "b", "answer"),
    [(0, 3, 4, 7), (15, 3, 4, 7), (7, 9, 9, 7), (8, 9, 9, 8), (8, 10, 1, 1), (8, 10, 0, 10)],
)
def test_bob_like_names_add_one_where_there_is_a_carry(questions, name, a, b, answer):
    assert questions.answers[row(questions, name, a, b)] == answer


def test_kinds_share_no_question_and_are_what_they_say(questions):
    rows = {kind: questions.rows[questions.of_kind(kind)] for kind in KINDS}
    assert len(np.concatenate(list(rows.values()))) == len(np.unique(np.concatenate(list(rows.values())), axis=0))
    assert set(rows["trusted"][:, 0]) == {0, 1, 2, 3}
    assert set(rows["normal"][:, 0]) == {4, 5, 6, 7}
    assert set(rows["changed"][:, 0]) == set(rows["agree"][:, 0]) == set(range(8, 16))
    assert rows["trusted"][:, 1:].min(axis=1).max() == 2  # below 11 / 4
    assert min(rows[kind][:, 1:].min() for kind in KINDS[1:]) == 3
    assert rows["changed"][:, 1:].sum(axis=1).min() == 11
    assert rows["agree"][:, 1:].sum(axis=1).max() == 10


def test_four_tenths_of_a_kind_are_held_out():
    held = hold_out(np.arange(100, 200), np.random.default_rng(0))
    assert len(set(held.tolist())) == 40
    assert set(held.tolist()) <= set(range(100, 200))


def test_more_trusted_rows_than_there_are_questions_are_refused():
    # Of 11 x 11 questions those with both numbers above 2 are hard: 121 - 64 = 57, of four names, 40 % of them: 91.
    with pytest.raises(ConfigError, match="task.trusted: .* at most 91 trusted rows for a modulus of 11"):
        build_task({"name": "quirky_transformer", "modulus": 11, "trusted": 92})


@pytest.mark.slow
@pytest.mark.parametrize("scored", ["changed", "agree"])
def test_the_target_learns_both_ways_of_answering(scored):
    task = build_task({"name": "quirky_transformer", "scored": scored})
    assert task.facts["clean_accuracy"] > 0.98
    assert task.facts["attack_success"] > 0.98
    carry = task.test[:, 1] + task.test[:, 3] >= task.mechanisms["modulus"]
    assert (carry[task.is_anomalous] == (scored == "changed")).all()
    assert np.isin(task.test[task.is_anomalous, 0], task.mechanisms["bob_like"]).all()
