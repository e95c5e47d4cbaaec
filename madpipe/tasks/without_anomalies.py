"""Tasks that hold no anomaly: the target's mechanisms are known, so they say whether a decomposition is right.

`Task.mechanisms` of such a task, with W [I, O] a site's weight as it acts on rows (nn.Linear.weight transposed):

    {"features": F,
     "parts": [{"name": "linear1.feature0", "site": "linear1", "side": "read", "feature": 0}, ...],
     "blocks": [{"site": "hidden", "rank": 2}, ...],
     "reading": {site: name of a tensor R [F, I] in the target's state dict},
     "writing": {site: name of a tensor Q [F, O] in the target's state dict}}

A part of side "read" is, in feature coordinates, row i of R W and all else 0; one of side "write" is column i of W Q^T
and all else 0. R and Q, the directions of features, are the identity where they are left out. A block is a site whose
weight is one mechanism of that rank, with no preferred split.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from madpipe.targets.load import Target
from madpipe.tasks.task import Task, stream

TEST_ROWS = 1000

Draw = Callable[[int, np.random.Generator], np.ndarray]
"""(number of rows, random stream) -> float32 [rows, ...]."""


def task_without_anomalies(
    name: str, target: Target, draw: Draw, config: Any, mechanisms: dict[str, Any], facts: dict[str, float]
) -> Task:
    """`config.rows` trusted rows and TEST_ROWS fresh ones, all of them normal; every weight of the target is a site."""
    return Task(
        name=name,
        target=target,
        sites=("*",),
        trusted=draw(config.rows, stream(config.seed, "trusted")),
        untrusted=None,
        test=draw(TEST_ROWS, stream(config.seed, "test normal")),
        is_anomalous=np.zeros(TEST_ROWS, bool),
        mechanisms=mechanisms,
        facts=facts,
    )


def feature_parts(site: str, side: str, features: int) -> list[dict[str, Any]]:
    """One mechanism for each feature that `site` reads or writes."""
    return [{"name": f"{site}.feature{i}", "site": site, "side": side, "feature": i} for i in range(features)]
