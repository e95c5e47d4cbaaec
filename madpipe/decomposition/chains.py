"""Effects of an APD's components in a chain: a network of linear maps and elementwise functions, one after another.

There the derivative t along every component needs no graph. Between two functions all is linear: t becomes t W, W the
product of the maps, plus for each site what the components make of what it reads, carried to the next function; a
function multiplies t by its slopes. A few inputs at a time, so that t stays in the processor's cache.

Legend: S instances, B inputs, I = d_in, O = d_out, C components of m slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from madpipe.components.model import ComponentModel

CACHED = 2**18  # numbers of t for the inputs taken at a time: a MiB, inside a core's own cache
FUNCTIONS = frozenset(
    (functional.relu, functional.gelu, functional.silu, functional.softplus, functional.leaky_relu, functional.elu)
    + (torch.relu, torch.tanh, torch.sigmoid)
)


@dataclass(frozen=True)
class LinearMap:
    """`weight` [I, O]; of site `index`, which reads `site_input` [S*B, I], or of none."""

    weight: Tensor
    site_input: Tensor
    index: int | None


@dataclass
class Segment:
    """Linear maps in a row, then a function: its derivatives `slope` [S*B, O], or None where no function follows."""

    maps: list[LinearMap] = field(default_factory=list)
    slope: Tensor | None = None

    @property
    def width(self) -> int:
        return self.maps[-1].weight.shape[1]

    @property
    def sites(self) -> list[LinearMap]:
        return [linear for linear in self.maps if linear.index is not None]


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
            if not self.segments or self.segments[-1].slope is not None:
                self.segments.append(Segment())
            self.segments[-1].maps.append(LinearMap(args[1].detach().t(), args[0], index))
            return True
        if func in FUNCTIONS and self.segments and not kwargs.get("inplace"):
            slope, last = _slope(func, args, kwargs), self.segments[-1]
            last.slope = slope if last.slope is None else last.slope * slope
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
        total += (sum(site.weight.shape[0] for site in segment.sites) + entering) * segment.width
        entering = segment.width
    return total


def chain_attributions(model: ComponentModel, chain: Sequence[Segment], rank: int) -> Tensor:
    """mean_o effect^2 of every component, [S, B, C]; differentiable with respect to slots."""
    S, C = model.instances, model.slots[0] // rank
    carriers = [_Carrier(model, segment, rank) for segment in chain]
    B = len(chain[0].maps[0].site_input) // S
    size = max(CACHED // (C * max(segment.width for segment in chain)), 1)
    parts = [_of_some(carriers, s, slice(b, min(b + size, B))) for s in range(S) for b in range(0, B, size)]
    return torch.cat(parts).view(S, B, C)


class _Carrier:
    """t [b, C, I] -> [b, C, O] over one segment, slopes left out."""

    def __init__(self, model: ComponentModel, segment: Segment, rank: int):
        self.S, self.width = model.instances, segment.width
        self.through = reduce(torch.matmul, (linear.weight for linear in segment.maps))
        self.slope = None if segment.slope is None else self._by_instance(segment.slope)
        sites = segment.sites
        self.reads = self._by_instance(torch.cat([site.site_input for site in sites], 1)) if sites else None
        if sites:
            self.matrices = torch.cat([m.flatten(2) for m in _carried_matrices(model, segment, rank)], 1)

    def _by_instance(self, values: Tensor) -> Tensor:
        return values.view(self.S, -1, values.shape[-1])

    def __call__(self, t: Tensor | None, instance: int, rows: slice) -> Tensor:
        carried = None if t is None else t @ self.through
        if self.reads is None:
            assert carried is not None, "a chain begins with a site"
            return carried
        own = (self.reads[instance, rows] @ self.matrices[instance]).unflatten(1, (-1, self.width))
        return own if carried is None else carried + own


def _carried_matrices(model: ComponentModel, segment: Segment, rank: int) -> list[Tensor]:
    """Of each site, P_c times the maps that follow it in the segment: [S, I, C, O]."""
    matrices: list[Tensor] = []
    for linear in segment.maps:
        matrices = [m @ linear.weight for m in matrices]
        if linear.index is not None:
            V, U = model.V[linear.index], model.U[linear.index]
            read, write = V.unflatten(2, (-1, rank)).transpose(1, 2), U.unflatten(1, (-1, rank))
            matrices.append((read @ write).transpose(1, 2))
    return matrices


def _of_some(carriers: Sequence[_Carrier], instance: int, rows: slice) -> Tensor:
    """mean_o effect^2 of some inputs of one instance: [b, C]."""
    t: Tensor | None = None
    for carrier in carriers[:-1]:
        assert carrier.slope is not None, "a function ends every segment but the last"
        t = carrier(t, instance, rows) * carrier.slope[instance, rows, None]
    squares = _square(carriers[-1](t, instance, rows))
    slope = carriers[-1].slope
    if slope is None:
        return squares.mean(-1)
    weights = slope[instance, rows].square() / squares.shape[-1]  # of the sum itself: no pass over t for them
    return (squares @ weights[:, :, None]).squeeze(-1)


def _square(t: Tensor) -> Tensor:
    """In place where no gradient needs t."""
    return t.square() if t.requires_grad else t.square_()
