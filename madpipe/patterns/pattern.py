"""Patterns, the one object that crosses from tensors to arrays: a row of named features per input."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from madpipe.errors import UnknownNameError, nearest


@dataclass(frozen=True)
class Patterns:
    """`values` [inputs, features], with a name and a site for each column: "" for none, "fc1+head" for several."""

    values: NDArray[np.floating]
    features: tuple[str, ...]
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.values.ndim == 2, self.values.shape
        assert self.values.shape[1] == len(self.features) == len(self.sites), (self.values.shape, len(self.features))

    def columns(self, globs: Sequence[str], where: str = "") -> NDArray[np.floating]:
        """The columns whose feature name matches any of `globs`; UnknownNameError when one glob matches nothing."""
        if tuple(globs) == ("*",):
            return self.values
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in self.features):
                raise UnknownNameError(f"{where}no feature matches '{glob}'.{nearest(glob, self.features[:40])}")
        chosen = [i for i, name in enumerate(self.features) if any(fnmatchcase(name, glob) for glob in globs)]
        return self.values[:, chosen]


def stack(parts: Sequence[Patterns]) -> Patterns:
    """Rows of several batches under one another."""
    return Patterns(np.concatenate([part.values for part in parts]), parts[0].features, parts[0].sites)
