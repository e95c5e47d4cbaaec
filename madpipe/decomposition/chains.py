"""Effects of an APD's components in a chain: a network of linear maps and elementwise functions, one after another.

There the derivative t along every component needs no graph. Between two functions all is linear: t becomes t W, W the
product of the maps, plus one matrix for each component times what the first map reads, which holds all sites in
between; a function multiplies t by its slopes. A few inputs at a time, so that t stays in the processor's cache.

Legend: S instances, B inputs, I = d_in, O = d_out, C components of m slots.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from madpipe.components.model import ComponentModel
from madpipe.components.sparse_rows import Rows

CACHED = 2**18  # numbers of t for the inputs taken at a time: a MiB, inside a core's own cache
FUNCTIONS = frozenset(
    (functional.relu, functional.gelu, functional.silu, functional.softplus, functional.leaky_relu, functional.elu)
    + (torch.relu, torch.tanh, torch.sigmoid)
)


@dataclass(frozen=True)
class LinearMap:
    """x W + b of x [S*B, I], `weight` [I, O]; it is site `index`, or none."""

    weight: Tensor
    bias: Tensor | None
    x: Tensor
    index: int | None


@dataclass
class Segment:
    """Linear maps in a row, then functions, each one of what the one before gives: how they were called."""

    maps: list[LinearMap] = field(default_factory=list)
    functions: list[tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    @property
    def slope(self) -> Tensor:
        """The functions' derivatives, [S*B, O]: one where there are none."""
        if not self.functions:
            return self.maps[0].x.new_ones(len(self.maps[0].x), self.width)
        return reduce(torch.mul, (_slope(*called) for called in self.functions))

    @property
    def width(self) -> int:
        return self.maps[-1].weight.shape[1]

    @property
    def has_sites(self) -> bool:
        return any(linear.index is not None for linear in self.maps)

    @property
    def read(self) -> int:
        """How many numbers components make their part of t from."""
        return self.maps[0].weight.shape[0] if self.has_sites else 0


class _Recorder(TorchFunctionMode):
    """Notes what happens from the first site on; `end` is what came last, None where the network is no chain.

    From there on all must be known functions of what came last, so that no path from a site is ever left out.
    """

    def __init__(self, model: ComponentModel):
        super().__init__()
        self.sites = {id(model.module(i).weight): i for i in range(len(model.sites))}
        self.segments: list[Segment] = []
        self.end: Tensor | None = None
        self.broken = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = not self.broken and bool(args) and isinstance(args[0], Tensor) and args[0].ndim == 2
        noted = known and (args[0] is self.end or not self.segments) and self._note(func, args, kwargs)
        uses_site = any(id(given) in self.sites for given in (*args, *kwargs.values()))
        self.broken = self.broken or (not noted and (bool(self.segments) or uses_site))
        value = func(*args, **kwargs)
        self.end = value if noted else None
        return value

    def _note(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether it is a link of the chain, which is then the last."""
        if func is functional.linear and len(args) > 1 and isinstance(args[1], nn.Parameter):
            index = self.sites.get(id(args[1]))
            if index is None and not self.segments:
                return False
            if not self.segments or self.segments[-1].functions:
                self.segments.append(Segment())
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            self.segments[-1].maps.append(LinearMap(args[1].detach().t(), bias, args[0], index))
            return True
        if func in FUNCTIONS and self.segments and not kwargs.get("inplace"):
            self.segments[-1].functions.append((func, args, kwargs))
            return True
        return False


def _slope(func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """f'(y) of an elementwise function, by one backward pass."""
    with torch.enable_grad():
        leaf = args[0].detach().requires_grad_()
        value = func(leaf, *args[1:], **kwargs)
        (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
    return slope


@torch.no_grad()
def chain_of(model: ComponentModel, x: Tensor) -> list[Segment] | None:
    """What the target makes of x [S*B, I] from the first site on; None where it is no chain."""
    with _Recorder(model) as recorder:
        output = model.target(x)
    return recorder.segments if output is recorder.end else None


def multiplications(chain: Sequence[Segment]) -> int:
    """How many `chain_attributions` makes for one input and component."""
    total, entering = 0, 0
    for segment in chain:
        total += (segment.read + entering) * segment.width
        entering = segment.width
    return total


def chain_attributions(model: ComponentModel, chain: Sequence[Segment], rank: int) -> Tensor:
    """mean_o effect^2 of every component, [S, B, C]; differentiable with respect to slots."""
    S, C = model.instances, model.slots[0] // rank
    carriers = [_Carrier(model, segment, rank) for segment in chain]
    B = len(chain[0].maps[0].x) // S
    rows = CACHED // (C * max(segment.width for segment in chain))
    slopes = [segment.slope for segment in chain]
    slopes[-1] = slopes[-1].square() / chain[-1].width  # weights of the squares: no pass over t for them
    parts = [_of_some(carriers, slopes, part) for part in _parts(S, B, rows)]
    return torch.cat(parts).view(S, B, C)


def _parts(S: int, B: int, most: int) -> Iterator[slice]:
    """All S*B rows at once, or at most so many of one instance at a time."""
    if most >= S * B:
        yield slice(0, S * B)
        return
    size = max(most, 1)
    for s in range(S):
        yield from (slice(s * B + b, s * B + min(b + size, B)) for b in range(0, B, size))


class _Carrier:
    """t [b, I, C] -> [b, O, C] over the maps of one segment."""

    def __init__(self, model: ComponentModel, segment: Segment, rank: int):
        self.width = segment.width
        self.through = reduce(torch.matmul, (linear.weight for linear in segment.maps)).t()
        self.rows: Rows | None = None
        if segment.has_sites:
            matrices = _made_of_what_is_read(model, segment, rank)
            self.rows = Rows(segment.maps[0].x, model.instances)
            self.matrices, self.constants = matrices[:, :-1].flatten(2).contiguous(), matrices[:, -1]
            self.affine = any(linear.bias is not None for linear in segment.maps[:-1])

    def __call__(self, t: Tensor | None, part: slice) -> Tensor:
        carried = None if t is None else self.through.expand(len(t), -1, -1) @ t
        if self.rows is None:
            assert carried is not None, "a chain begins with a site"
            return carried
        own = self.rows.times(self.matrices, part).unflatten(1, (self.width, -1))
        if self.affine:
            own = own + self.rows.own(self.constants, part)
        return own if carried is None else carried + own


def _made_of_what_is_read(model: ComponentModel, segment: Segment, rank: int) -> Tensor:
    """[S, I + 1, O, C]: what one unit of each input of the segment adds to t, and last what its biases add.

    Site j reads x A_j + b_j and what it writes is carried on by T_j: sum_j (A_j V_cj; b_j V_cj) (U_cj T_j).
    """
    first = segment.maps[0].weight
    before = torch.cat([torch.eye(len(first)), torch.zeros(1, len(first))]).to(first)
    reads, writes = [], []
    for j, linear in enumerate(segment.maps):
        if linear.index is not None:
            U = reduce(torch.matmul, (later.weight for later in segment.maps[j + 1 :]), model.U[linear.index])
            reads.append((before @ model.V[linear.index]).unflatten(2, (-1, rank)))
            writes.append(U.unflatten(1, (-1, rank)))
        before = before @ linear.weight
        if linear.bias is not None:
            before[-1] += linear.bias
    made = torch.cat(reads, 3).transpose(1, 2) @ torch.cat(writes, 2)
    return made.permute(0, 2, 3, 1).contiguous()


def _of_some(carriers: Sequence[_Carrier], slopes: Sequence[Tensor], part: slice) -> Tensor:
    """mean_o effect^2 of some inputs, [b, C]; the last slopes [S*B, O] are weights of squares."""
    t: Tensor | None = None
    for carrier, slope in zip(carriers[:-1], slopes, strict=False):
        t = carrier(t, part) * slope[part, :, None]
    return (slopes[-1][part, None] @ _square(carriers[-1](t, part))).squeeze(1)


def _square(t: Tensor) -> Tensor:
    """In place where no gradient needs t."""
    return t.square() if t.requires_grad else t.square_()
