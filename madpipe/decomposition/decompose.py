"""From a target and trusted rows to a settled decomposition: statistics, start, training, alive sets."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from madpipe.components.sites import Site
from madpipe.decomposition.losses import OutputKind
from madpipe.decomposition.method import Method, MethodConfig
from madpipe.decomposition.statistics import trusted_statistics

CHUNK = 512  # rows per pass when alive sets are taken


def decompose(
    target: nn.Module,
    sites: Sequence[Site],
    method_class: type[Method],
    config: MethodConfig,
    output: OutputKind,
    trusted: Tensor,
    *,
    seed: int,
    checkpoints: Path,
    trainer_options: Mapping[str, Any],
    progress: Callable[[int, Mapping[str, float]], None],
    logger: Any = False,
) -> Method:
    """Train all seeds and variants of `method_class` side by side on `trusted` [N, ...], float32, and settle them.

    Instances are seed-major: instance = seed * variants + variant. One generator draws for all of them, so that each
    has a start and batches of its own. A run that was stopped goes on from `checkpoints`. `progress` is told (steps
    done, mean loss terms) after each round. DivergedError when a loss term is not finite.
    """
    from madpipe.decomposition.training import train

    instances = config.seeds * len(method_class.variants(config))
    method = method_class(target, sites, config, instances)
    statistics = trusted_statistics(target, sites, trusted, output)
    method.initialise(statistics, torch.Generator().manual_seed(seed))
    rows = [torch.arange(len(trusted))] * instances
    train(
        method,
        trusted,
        rows,
        seed=seed,
        checkpoints=checkpoints,
        trainer_options=trainer_options,
        progress=progress,
        logger=logger,
    )
    method.eval().requires_grad_(False)
    method.settle(trusted.split(CHUNK))
    return method
