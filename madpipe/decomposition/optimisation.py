"""One optimiser step of a decomposition. Every draw is keyed by (seed, step), so a resumed run is the same run."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from madpipe.components.share import WHOLE, Share
from madpipe.decomposition.merged_rows import merge_zero_rows
from madpipe.decomposition.method import Batch, Method
from madpipe.decomposition.processes import average_in_place
from madpipe.decomposition.schedules import cosine
from madpipe.errors import ConfigError, DivergedError

CLIP = 1.0  # gradient norm of one instance


def make_optimizer(method: Method) -> torch.optim.AdamW:
    """Adam over all that `method` trains; element-wise, so instances stay independent."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    passes = {"fused": True} if method.fused_updates else {"foreach": True}
    return torch.optim.AdamW(parameters, lr=method.config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, **passes)


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
    x = trusted.index_select(0, share.of(picks).flatten()).to(device)
    if method.config.input_noise or method.draws:  # what is drawn next comes after the noise, also where it is unused
        shape = (*picks.shape, *trusted.shape[1:])
        noise = share.of(torch.randn((picks.numel(), *shape[2:]), generator=generator).view(shape)).flatten(0, 1)
        if method.config.input_noise:
            x = x + method.config.input_noise * method.statistics.input_std.to(device) * noise.to(device)
    merged = merge_zero_rows(x.unflatten(0, (len(rows), -1))) if method.merges_rows and method.silent_at_zero else None
    if merged is not None:
        x = merged.of(x.unflatten(0, (len(rows), -1))).flatten(0, 1)
    with torch.no_grad():
        clean = method.model.masked_forward(x, {}, record=method.repeats_passes)
    return Batch(x, clean, generator, step / method.config.steps, share, merged)


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
    clip_gradients(method.parameters(), limit, fused=method.fused_updates)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, fused: bool = False) -> None:
    """Scale each instance's gradient of `parameters` to norm `limit` at most.

    Instances share no parameter: the leading axis of each is the instance, so they stay independent. `fused` squares
    and sums in one pass.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    rows = [g.flatten(1) for g in gradients]
    squared = [torch.linalg.vector_norm(g, dim=1).square() if fused else g.square().sum(1) for g in rows]
    squares = torch.stack(squared).sum(0)
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
