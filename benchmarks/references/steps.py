"""What both comparisons share: a loader that reads the clock, and our own step under a given config."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from madpipe.components.sites import find_sites
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, take_step
from madpipe.decomposition.statistics import trusted_statistics

TRUSTED_ROWS = 20_000  # what our batches are drawn from; the references generate theirs


class LoopEndedError(Exception):
    """Ends a reference's own training loop from within."""


class ClockedLoader:
    """Batches of `generate` for a loop that is left as it is; a step is the time from one batch asked for to the next.

    After `steps` intervals the loop is ended by LoopEndedError.
    """

    def __init__(self, generate: Callable[[], Any], steps: int, before: int = 0):
        self.generate, self.steps, self.before = generate, steps, before
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.asked.append(time.process_time())
            if len(self.asked) > self.before + self.steps:
                raise LoopEndedError
            yield self.generate()

    def run(self, loop: Callable[[], None]) -> list[float]:
        """Seconds of each step of `loop`, those of the first `before` batches left out."""
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            contextlib.suppress(LoopEndedError),
        ):
            loop()
        times = self.asked[self.before :]
        return [later - earlier for earlier, later in pairwise(times)]


class OurSteps:
    """A method on `target` and the steps that training takes: a batch drawn, losses, gradient, update."""

    def __init__(self, target: nn.Module, method_class: type[Method], config: MethodConfig, inputs: Tensor):
        sites = find_sites(target)
        instances = config.seeds * len(method_class.variants(config))
        self.method = method_class(target, sites, config, instances)
        self.method.initialise(
            trusted_statistics(target, sites, inputs, "regression"), torch.Generator().manual_seed(0)
        )
        self.optimizer = make_optimizer(self.method)
        self.inputs, self.rows = inputs, [torch.arange(len(inputs))] * instances
        self.step = 0

    def run(self, steps: int, dtype: torch.dtype | None = None) -> list[float]:
        """Seconds of each of `steps` steps, their losses under autocast to `dtype`."""
        times = []
        for _ in range(steps):
            start = time.process_time()
            batch = draw_batch(self.method, self.inputs, self.rows, self.step, seed=0)
            take_step(self.method, self.optimizer, batch, self.step, dtype)
            times.append(time.process_time() - start)
            self.step += 1
        return times


def sparse_inputs(rows: int, features: int, probability: float, low: float) -> Tensor:
    """Each feature on with `probability`, uniform in [low, 1]: [rows, features]."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(rows, features, generator=generator) * (1 - low) + low
    return values * (torch.rand(rows, features, generator=generator) < probability)
