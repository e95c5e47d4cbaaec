"""Networks trained on trusted data to give the target's outputs, for the two controls that nobody publishes.

A copy agrees with the target wherever trusted data say what to do; where it disagrees, the target did something that
trusted data do not show. It gives no part to look at or to remove.
"""

import copy
import math

import torch
from torch import Tensor, nn

from madpipe.decomposition.losses import OutputMetric

BATCH = 128


def fit_copy(
    module: nn.Module,
    teacher: nn.Module,
    x: Tensor,
    metric: OutputMetric,
    *,
    steps: int,
    rate: float,
    decay: float,
    seed: int,
) -> nn.Module:
    """Train `module` in place on x [N, ...] to the teacher's outputs: KL, AdamW, cosine rate, decoupled `decay`."""
    generator = torch.Generator().manual_seed(seed)
    module = module.train().requires_grad_(True)
    with torch.no_grad():
        wanted = torch.cat([teacher(part) for part in x.split(1024)])
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for dropout in `module`
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(x), (BATCH,), generator=generator)
            loss = metric.kl(wanted[rows], module(x[rows])).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return module.eval().requires_grad_(False)


def reinitialised(target: nn.Module, seed: int) -> nn.Module:
    """A copy of `target` with fresh parameters, by each module's own reset_parameters."""
    fresh = copy.deepcopy(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return fresh


def disagreement(metric: OutputMetric, clean: Tensor, other: Tensor) -> dict[str, Tensor]:
    """KL(target || copy) and normalised squared logit distance, each [B]; higher = less agreement."""
    kl, l2 = metric.kl(clean, other), metric.squared_distance(clean, other)
    return {"kl": kl.reshape(len(kl), -1).sum(1), "l2": l2.reshape(len(l2), -1).sum(1)}
