"""What an output says: probabilities or values, and the decision a reader takes from it."""

from collections.abc import Callable

import torch
from torch import Tensor

from madpipe.decomposition.losses import OutputMetric

Criterion = Callable[[Tensor, Tensor, Tensor, OutputMetric], Tensor]
"""Of (an output, the goal, the output at the start), readable and [B, *P, O]: on which inputs it will do, bool [B]."""
MOST_DISTANCE = 0.1  # of the distance to bridge: what regression counts as having reached the other output


def readable(output: Tensor, metric: OutputMetric) -> Tensor:
    """Raw outputs [..., O] as probabilities (of classes, or of each output by itself), or as the values they are."""
    match metric.kind:
        case "categorical":
            return torch.softmax(output, -1)
        case "bernoulli":
            return torch.sigmoid(output)
        case "regression":
            return output


def decided(values: Tensor, metric: OutputMetric) -> Tensor:
    """Readable outputs [B, *P, O] as decisions, a row of them for each input [B, n]; of a regression the values."""
    match metric.kind:
        case "categorical":
            return values.argmax(-1).flatten(1) if values.ndim > 2 else values.argmax(-1, keepdim=True)
        case "bernoulli":
            return (values > 0.5).long().flatten(1)
        case "regression":
            return values.flatten(1)


def same_decision(one: Tensor, other: Tensor, metric: OutputMetric) -> Tensor:
    """Whether readable outputs [B, *P, O] lead to the same decisions, bool [B]; in regression only equal ones do."""
    first, second = (decided(values, metric) for values in (one, other))
    return (first == second).all(1)


def reaches(one: Tensor, goal: Tensor, start: Tensor, metric: OutputMetric) -> Tensor:
    """Whether `one` says what `goal` does, bool [B]: by the decision or, in regression, by covering nine tenths of the
    way from `start`.
    """
    if metric.kind != "regression":
        return same_decision(one, goal, metric)
    left, whole = ((value - goal).flatten(1).square().sum(1) for value in (one, start))
    return left <= MOST_DISTANCE * whole


def gives_up(one: Tensor, goal: Tensor, start: Tensor, metric: OutputMetric) -> Tensor:
    """Whether `one` no longer says what `start` does wherever `goal` says another thing, bool [B]; as `reaches` in
    regression. Unlike that it does not ask `one` to make the mistakes of a goal that is not quite right itself.
    """
    if metric.kind == "regression":
        return reaches(one, goal, start, metric)
    now, wanted, before = (decided(values, metric) for values in (one, goal, start))
    return ((wanted == before) | (now != before)).all(1)


def divergence(clean: Tensor, other: Tensor, metric: OutputMetric) -> Tensor:
    """KL(clean || other) in nats of raw outputs [B, *P, O], summed over positions: [B]."""
    value = metric.kl(clean, other)
    return value.flatten(1).sum(1) if value.ndim > 1 else value
