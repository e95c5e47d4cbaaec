"""Gated functions: a hand-coded network that adds up those functions of x whose control bits are on.

After the hand-coded gated function model of Braun et al., Attribution-based Parameter Decomposition (arXiv 2501.14926),
appendix A, with all neurons in one layer. Function i is the piecewise linear interpolation, at m knots in [0, 5], of

    F(x) = a cos(b x + c) + d sin(e x + f) + g,   a, d, g ~ U(-1, 1);   b, e ~ U(0.1, 1);   c, f ~ U(-pi, pi),

drawn again until its root mean square is at least LEAST_SIZE, so that every function matters. It owns m neurons
ReLU(x - s_k - K + K bit_i), which are off unless its bit is on; no neuron serves two functions.

`mechanisms` differ in form from those of tasks with features, since a mechanism is several neurons:

    {"functions": [{"name": "f0", "site": "fc1", "rows": [3, 17, ...]},
                   {"name": "f0", "site": "head", "columns": [3, 17, ...]}, ...]}

With W [O, I] = nn.Linear.weight of a site, function i is those rows (outputs) or columns (inputs) of W and all else 0,
a matrix of rank one at either site.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from madpipe.targets import mlp
from madpipe.tasks.task import Task, stream, trained_target
from madpipe.tasks.without_anomalies import task_without_anomalies

END = 5.0  # x lies in [0, END]
PROBABILITY = 0.05  # of a control bit to be on, the paper's
GATE = 10.0  # K: above END plus one interval, so that a neuron without its bit is off
LEAST_SIZE = 0.25


class GatedFunctionsTask:
    """A few functions of one input, each with neurons of its own behind a control bit; no anomalies."""

    name: ClassVar[str] = "gated_functions"

    class Config(BaseModel):
        """neurons: of each function. rows: of trusted data; the target ignores them."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        functions: int = Field(default=4, ge=2, le=50)
        neurons: int = Field(default=10, ge=3, le=100)
        rows: int = Field(default=20_000, ge=20, le=1_000_000)
        seed: int = Field(default=0, ge=0)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{}]

    @classmethod
    def label(cls, config: Config) -> str:
        rows = "" if config.rows == cls.Config().rows else f"-{config.rows}"
        return f"gated_functions-{config.functions}-{config.neurons}{rows}-{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        keys = {3: ("functions", "neurons", "seed"), 4: ("functions", "neurons", "rows", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return f"{config.functions} hand-coded functions of x, each behind a bit; known mechanisms, no anomalies"

    @classmethod
    def build(cls, config: Config) -> Task:
        owned = owned_neurons(config)
        knots = np.linspace(0, END, config.neurons)
        values = np.stack([draw_function(stream(config.seed, f"function {i}"), knots) for i in range(config.functions)])
        sizes = [1 + config.functions, owned.size, 1]
        module = mlp.build(sizes)
        module.load_state_dict(hand_coded(owned, values))
        target = trained_target(module, "regression", "madpipe.targets.mlp:build", {"sizes": sizes})
        facts = {"smallest_function": float(np.sqrt((values**2).mean(axis=1)).min())}
        return task_without_anomalies(
            cls.label(config),
            target,
            lambda number, rng: draw_rows(config.functions, number, rng),
            config,
            known_mechanisms(owned),
            facts,
        )


def owned_neurons(config: GatedFunctionsTask.Config) -> np.ndarray:
    """The neurons of each function, int [functions, neurons], in random order."""
    neurons = stream(config.seed, "neurons").permutation(config.functions * config.neurons)
    return neurons.reshape(config.functions, config.neurons)


def draw_function(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """F(x) with random coefficients, of a root mean square of at least LEAST_SIZE."""
    while True:
        a, d, g = rng.uniform(-1, 1, 3)
        b, e = rng.uniform(0.1, 1, 2)
        c, f = rng.uniform(-np.pi, np.pi, 2)
        values: np.ndarray = a * np.cos(b * x + c) + d * np.sin(e * x + f) + g
        if np.sqrt((values**2).mean()) >= LEAST_SIZE:
            return values


def hand_coded(owned: np.ndarray, values: np.ndarray) -> dict[str, torch.Tensor]:
    """The state dict; values [functions, m]: of each function at the knots 0, h, ..., END, h = END / (m - 1).

    Its neurons bend at -h, 0, ..., END - h, so that the sum rises from 0 at -h and meets every value: neuron k's
    outgoing weight is the change of slope there.
    """
    functions, knots = values.shape
    interval = END / (knots - 1)
    slopes = np.diff(values, axis=1, prepend=0.0) / interval
    reading, bias, writing = np.zeros((owned.size, 1 + functions)), np.zeros(owned.size), np.zeros((1, owned.size))
    for i, neurons in enumerate(owned):
        reading[neurons, 0], reading[neurons, 1 + i] = 1.0, GATE
        bias[neurons] = -np.linspace(-interval, END - interval, knots) - GATE
        writing[0, neurons] = np.diff(slopes[i], prepend=0.0)
    weights = {"fc1.weight": reading, "fc1.bias": bias, "head.weight": writing, "head.bias": np.zeros(1)}
    return {name: torch.from_numpy(value).float() for name, value in weights.items()}


def draw_rows(functions: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """x and the control bits, float32 [number, 1 + functions]."""
    x, bits = rng.uniform(0, END, (number, 1)), rng.random((number, functions)) < PROBABILITY
    return np.concatenate([x, bits], axis=1).astype(np.float32)


def known_mechanisms(owned: np.ndarray) -> dict[str, Any]:
    parts = []
    for i, neurons in enumerate(np.sort(owned, axis=1).tolist()):
        parts += [
            {"name": f"f{i}", "site": "fc1", "rows": neurons},
            {"name": f"f{i}", "site": "head", "columns": neurons},
        ]
    return {"functions": parts}
