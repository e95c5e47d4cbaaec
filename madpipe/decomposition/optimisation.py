"""One optimiser step of a decomposition. Every draw is keyed by (seed, step), so a resumed run is the same run."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from madpipe.components.share import WHOLE, Share
from madpipe.decomposition.method import Batch, Method
from madpipe.decomposition.processes import average_in_place
from madpipe.decomposition.schedules import cosine
from madpipe.errors import ConfigError, DivergedError

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


def draw_batch(
    method: Method, trusted: Tensor, rows: Sequence[Tensor], step: int, seed: int, share: Share = WHOLE
) -> Batch:
    """Rows drawn with replacement, per instance from its own `rows`, with noise of a share of each input's spread.

    Every process draws the whole batch, and keeps its `share` of each instance's rows.
    """
    generator = step_generator(seed, step)
    size, device = method.config.batch_size, next(method.parameters()).device
    picks = torch.stack([own[torch.randint(len(own), (size,), generator=generator)] for own in rows])
    noise = torch.randn((picks.numel(), *trusted.shape[1:]), generator=generator).view(*picks.shape, *trusted.shape[1:])
    x = trusted[share.of(picks).flatten()].to(device)
    own_noise = share.of(noise).flatten(0, 1).to(device)
    x = x + method.config.input_noise * method.statistics.input_std.to(device) * own_noise
    with torch.no_grad():
        clean = method.model.masked_forward(x, {})
    return Batch(x=x, clean=clean, generator=generator, progress=step / method.config.steps, share=share)


def refuse_uneven_shares(batch_size: int, processes: int) -> None:
    """ConfigError unless every process gets as many rows as the others: only then is a mean of means the mean."""
    if batch_size % processes:
        raise ConfigError(
            f"decomposition.batch_size: {batch_size} rows cannot be shared evenly by {processes} processes "
            "(trainer.devices times trainer.num_nodes); make one a multiple of the other."
        )


def take_step(
    method: Method, optimizer: torch.optim.Optimizer, batch: Batch, step: int, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Loss, gradient (averaged over processes, clipped per instance), update; the terms before the update, each [S].

    With `dtype` the losses run under autocast to it. Parameters, gradients and the optimiser's state stay as they are.
    """
    rate = cosine(batch.progress, method.config.learning_rate, final_fraction=0.02)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with _autocast(batch.x.device, dtype):
        terms = method.losses(batch)
    optimizer.zero_grad(set_to_none=True)
    terms["total"].sum().backward()
    found = {name: value.detach().clone() for name, value in terms.items()}
    average_in_place([*_gradients(method), *found.values()])
    method.before_update(step)
    clip_per_instance(method)
    optimizer.step()
    method.after_step(step)
    return found


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """One context a step: inside a longer one, autocast would go on using weights cast before the last update."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _gradients(method: Method) -> list[Tensor]:
    return [p.grad for p in method.parameters() if p.grad is not None]


def clip_per_instance(method: Method, limit: float = CLIP) -> None:
    """`clip_gradients` of all that `method` trains."""
    clip_gradients(method.parameters(), limit)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale each instance's gradient of `parameters` to norm `limit` at most.

    Instances share no parameter: the leading axis of each is the instance, so they stay independent.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    scale = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.ndim - 1)))


def refuse_divergence(history: Sequence[Mapping[str, Tensor]], first_step: int) -> None:
    """DivergedError naming the first step, and its loss term, that is not finite; `history` begins at `first_step`."""
    for step, terms in enumerate(history, first_step):
        broken = [name for name, value in terms.items() if not bool(value.isfinite().all())]
        if broken:
            raise _diverged(f"loss term '{min(broken, key=lambda name: name == 'total')}'", f"at step {step}")


def refuse_broken_parameters(method: Method, step: int) -> None:
    """DivergedError where the updates up to `step` left a parameter that is not finite: such a state is never kept."""
    for name, parameter in method.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise _diverged(f"parameter '{name}'", f"after step {step}")


def _diverged(what: str, when: str) -> DivergedError:
    return DivergedError(f"decomposition: the {what} is not finite {when}; lower decomposition.learning_rate.")
