"""What processes that train one decomposition together must agree on. In a process by itself, nothing happens here.

Each takes its share of every batch (`Share`). Gradients and loss terms are averaged over processes; figures that are
not a mean over inputs (running maxima, the batch's top k, a mean inside a convex function) are made whole first, so
that every process holds the parameters, bit for bit, that the others hold.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from madpipe.components.share import WHOLE, Share
from madpipe.errors import MadpipeError


def own_share() -> Share:
    """Of the processes that Lightning (or torchrun) has joined."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return WHOLE
    return Share(distributed.get_rank(), distributed.get_world_size())


def alone() -> bool:
    return own_share().count == 1


@torch.no_grad()
def average_in_place(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over processes, in one exchange."""
    if alone() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= own_share().count
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def mean_of_all(own: Tensor) -> Tensor:
    """The mean over processes, with the gradient of this process's part times the number of processes.

    Gradients are averaged afterwards, so a function of this mean gets the gradient it has in one process.
    """
    if alone():
        return own
    whole = own.detach().clone()
    average_in_place([whole])
    return own + (whole - own.detach())


@torch.no_grad()
def highest_of_all(own: Tensor) -> Tensor:
    """Element by element, the largest over processes."""
    if alone():
        return own
    highest = own.clone()
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    return highest


@torch.no_grad()
def rows_of_all(own: Tensor) -> Tensor:
    """[S, B / count, ...] of each process -> [S, B, ...], in the order of `Share`."""
    if alone():
        return own
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(own_share().count)]
    distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts, 1)


def agreed(wish: bool, device: torch.device) -> bool:
    """Whether any process wishes it."""
    return bool(highest_of_all(torch.tensor(float(wish), device=device)))


@contextmanager
def lost_process_named() -> Iterator[None]:
    """MadpipeError, in one line, where another process has gone away in the middle of an exchange."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if isinstance(error, distributed.DistError) or (not alone() and "connection" in said):
            raise MadpipeError(
                "another process of this training has ended; what it said tells why. The same command continues from "
                "the last checkpoint."
            ) from error
        raise


@torch.no_grad()
def take_over_state(module: nn.Module) -> None:
    """Give all processes the state of the first: starts may differ in the last bit from machine to machine."""
    if alone():
        return
    state: Iterable[Tensor] = module.state_dict().values()
    for value in state:
        distributed.broadcast(value, 0)
