"""Sites: which weights of a target are decomposed, found by globs over module paths."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from madpipe.errors import UnknownNameError, nearest

SiteKind = Literal["linear", "conv2d"]
KINDS: dict[type[nn.Module], SiteKind] = {nn.Linear: "linear", nn.Conv2d: "conv2d"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """One decomposed weight. `d_in` counts the inputs of one output unit (channels x kernel for a convolution)."""

    name: str
    kind: SiteKind
    d_in: int
    d_out: int

    @property
    def rank(self) -> int:
        """The largest rank the weight can have."""
        return min(self.d_in, self.d_out)


def find_sites(target: nn.Module, globs: Sequence[str] = ("*",)) -> tuple[Site, ...]:
    """Sites of `target` whose module path matches one of `globs`, in module order.

    A weight shared by two modules is one site, under its first path. UnknownNameError when a glob matches nothing, or
    matches only modules of a kind that cannot be decomposed.
    """
    candidates = {name: module for name, module in target.named_modules() if name and _holds_weight(module)}
    for glob in globs:
        _refuse_empty_match(glob, candidates)
    sites: dict[int, Site] = {}
    for name, module in candidates.items():
        if any(fnmatchcase(name, glob) for glob in globs) and _decomposable(module):
            sites.setdefault(id(module.weight), _site(name, module))
    return tuple(sites.values())


def _holds_weight(module: nn.Module) -> bool:
    return getattr(module, "weight", None) is not None and not list(module.children())


def _decomposable(module: nn.Module) -> bool:
    return type(module) in KINDS and getattr(module, "groups", 1) == 1


def _site(name: str, module: nn.Module) -> Site:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return Site(name=name, kind=KINDS[type(module)], d_in=weight[0].numel(), d_out=weight.shape[0])


def _refuse_empty_match(glob: str, candidates: dict[str, nn.Module]) -> None:
    matched = [name for name in candidates if fnmatchcase(name, glob)]
    usable = [name for name in candidates if _decomposable(candidates[name])]
    if not matched:
        raise UnknownNameError(f"target.sites: no site matches '{glob}'.{nearest(glob, usable)}")
    if not set(matched) & set(usable):
        name = matched[0]
        raise UnknownNameError(
            f"target.sites: '{name}' is a {_describe(candidates[name])}, which cannot be decomposed; "
            f"Linear and Conv2d (groups=1) can.{nearest(glob, usable)}"
        )


def _describe(module: nn.Module) -> str:
    groups = getattr(module, "groups", 1)
    return type(module).__name__ + (f" with groups={groups}" if groups != 1 else "")
