"""One optimiser step of a decomposition. Every draw is keyed by (seed, step), so a resumed run is the same run."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from madpipe.decomposition.method import Batch, Method
from madpipe.decomposition.schedules import cosine
from madpipe.errors import DivergedError

CLIP = 1.0  # gradient norm of one instance


def make_optimizer(method: Method) -> torch.optim.AdamW:
    """Adam over all that `method` trains; element-wise, so instances stay independent."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=method.config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, foreach=True
    )


def step_generator(seed: int, step: int) -> torch.Generator:
    """The randomness of one step. Always on the CPU, so that devices see the same draws."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def draw_batch(method: Method, trusted: Tensor, rows: Sequence[Tensor], step: int, seed: int) -> Batch:
    """Rows drawn with replacement, per instance from its own `rows`, with noise of a share of each input's spread."""
    generator = step_generator(seed, step)
    size, device = method.config.batch_size, next(method.parameters()).device
    picks = torch.cat([own[torch.randint(len(own), (size,), generator=generator)] for own in rows])
    x = trusted[picks].to(device)
    noise = torch.randn(x.shape, generator=generator).to(device)
    x = x + method.config.input_noise * method.statistics.input_std.to(device) * noise
    with torch.no_grad():
        clean = method.model.masked_forward(x, {})
    return Batch(x=x, clean=clean, generator=generator, progress=step / method.config.steps)


def take_step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> dict[str, Tensor]:
    """Loss, gradient (clipped per instance), update; the terms before the update, each [S]."""
    rate = cosine(batch.progress, method.config.learning_rate, final_fraction=0.02)
    for group in optimizer.param_groups:
        group["lr"] = rate
    terms = method.losses(batch)
    optimizer.zero_grad(set_to_none=True)
    terms["total"].sum().backward()
    method.before_update(step)
    clip_per_instance(method)
    optimizer.step()
    method.after_step(step)
    return {name: value.detach() for name, value in terms.items()}


def clip_per_instance(method: Method, limit: float = CLIP) -> None:
    """Scale each instance's gradient to norm `limit` at most.

    Instances share no parameter: the leading axis of each is the instance, so they stay independent.
    """
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    scale = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))


def refuse_divergence(terms: Mapping[str, float], step: int) -> None:
    """DivergedError naming the loss term that is not finite."""
    broken = [name for name, value in terms.items() if not math.isfinite(value)]
    if broken:
        name = next((n for n in broken if n != "total"), broken[0])
        raise DivergedError(
            f"decomposition: the loss term '{name}' is not finite at step {step}; lower decomposition.learning_rate."
        )
