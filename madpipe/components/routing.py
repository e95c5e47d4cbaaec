"""One pass of a target: linear maps of sites are recognised, and what an earlier pass computed is not made again.

Passes of one input compute the same up to the first site whose mask differs. Where the earlier pass was recorded, its
results up to there are handed out call by call. A result that was changed in place since then makes a recording
useless, which shows in its version; a target that calls other functions than before runs on from there by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from madpipe.components.masks import Masks

Handle = Callable[[int, Tensor, Tensor | None], Tensor | None]
"""(site index, site input, bias) -> the site's output, or None where it runs clean."""


@dataclass(frozen=True)
class Call:
    """A function that a pass called, and what it gave; `site`: whose weight it used, `biased` with a bias."""

    function: Any
    result: Any
    version: int
    site: int | None
    biased: bool


@dataclass(frozen=True)
class Recording:
    """All calls of a pass of `x` under `masks`, in order."""

    x: Tensor
    masks: Masks
    version: int
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, x: Tensor, masks: Masks) -> "Recording":
        return cls(x, masks, x._version)

    def shared_with(self, x: Tensor, masks: Masks, sites: Sequence[str]) -> Iterator[Call]:
        """The calls with which a pass of `x` under `masks` begins too; none where anything was changed in place."""
        intact = self.x is x and x._version == self.version and all(_version(c.result) == c.version for c in self.calls)
        own = [masks.get(name) is self.masks.get(name) for name in sites]
        return takewhile(lambda call: call.site is None or own[call.site], self.calls if intact else ())

    def written(self, site: int) -> Tensor | None:
        """W x at the first use of a site that ran clean; None where a bias was added to it, or anything in place."""
        first = next((call for call in self.calls if call.site == site), None)
        usable = first is not None and not first.biased and _version(first.result) == first.version
        return first.result if first is not None and usable else None


def _version(result: Any) -> int:
    """How often a tensor was changed in place, or those of a tuple or list together."""
    if isinstance(result, tuple | list):
        return sum(_version(part) for part in result)
    return result._version if isinstance(result, Tensor) else 0


class SiteRouter(TorchFunctionMode):
    """Asks `handle` for each linear map that uses a site's weight; the rest runs as it is.

    Results are taken from `earlier` while calls are the same. `note` is told of every use of a site, `record` of every
    call.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        note: Callable[[int, Tensor], None],
        handle: Handle,
        earlier: Iterable[Call] = (),
        record: Recording | None = None,
    ):
        super().__init__()
        self.index = {id(weight): i for i, weight in enumerate(weights)}
        self.note, self.handle = note, handle
        self.earlier, self.record = iter(earlier), record

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        site, bias = None, None
        if func is functional.linear or func is functional.conv2d:
            site = self.index.get(id(args[1] if len(args) > 1 else kwargs["weight"]))
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if site is not None:
            self.note(site, args[0] if args else kwargs["input"])
        earlier = self._same_call(func, site)
        result = self._computed(func, args, kwargs, site, bias) if earlier is None else earlier.result
        if self.record is not None:
            self.record.calls.append(Call(func, result, _version(result), site, bias is not None))
        return result

    def _same_call(self, func: Any, site: int | None) -> Call | None:
        call = next(self.earlier, None)
        if call is not None and call.function is func and call.site == site:
            return call
        self.earlier = iter(())
        return None

    def _computed(self, func: Any, args: Any, kwargs: Any, site: int | None, bias: Tensor | None) -> Any:
        result = None if site is None else self.handle(site, args[0] if args else kwargs["input"], bias)
        return func(*args, **kwargs) if result is None else result
