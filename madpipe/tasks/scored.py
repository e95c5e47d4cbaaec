"""Same output, other mechanism: the task whose positives are another task's agree rows."""

from dataclasses import replace
from typing import Literal

import numpy as np

from madpipe.tasks.task import Task

Scored = Literal["changed", "agree"]
"""Which anomalous inputs are the positives: those whose output changes, or those whose output is what it was anyway."""


def scored_on_agree(task: Task, name: str) -> Task:
    """`task` with its agree rows in the place of its positives; target, trusted rows and normals are the same."""
    assert task.agree is not None, task.name
    normal, tested, agreeing = ~task.is_anomalous, np.zeros(len(task.test), bool), np.zeros(len(task.agree), bool)
    subsets = {
        subset: np.concatenate([task.subsets.get(subset, tested)[normal], task.agree_subsets.get(subset, agreeing)])
        for subset in {**task.subsets, **task.agree_subsets}
    }
    return replace(
        task,
        name=name,
        test=np.concatenate([task.test[normal], task.agree]),
        is_anomalous=np.concatenate([tested[normal], ~agreeing]),
        subsets=subsets,
        agree=None,
        agree_subsets={},
    )


def scored_word(scored: Scored) -> str:
    """What a label says of it before the seed: nothing of the default."""
    return "" if scored == "changed" else f"{scored}-"


def without_scored(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """A label's words without that one, and the config value it stands for."""
    if words[-2:-1] == ["agree"]:
        return [*words[:-2], words[-1]], {"scored": "agree"}
    return words, {}
