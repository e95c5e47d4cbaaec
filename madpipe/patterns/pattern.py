"""Patterns, the one object that crosses from tensors to arrays: a row of named features per input."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from madpipe.errors import UnknownNameError, nearest

PREDICTED_CLASS = "predicted_class"  # the site of a column that holds the class which the target predicts


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
        return self.select(globs, where).values

    def select(self, globs: Sequence[str], where: str = "") -> "Patterns":
        """`columns` with their names and sites."""
        if tuple(globs) == ("*",):
            return self
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in self.features):
                raise UnknownNameError(f"{where}no feature matches '{glob}'.{nearest(glob, self.features[:40])}")
        chosen = [i for i, name in enumerate(self.features) if any(fnmatchcase(name, glob) for glob in globs)]
        names, sites = (tuple(of[i] for i in chosen) for of in (self.features, self.sites))
        return Patterns(self.values[:, chosen], names, sites)


def stack(parts: Sequence[Patterns]) -> Patterns:
    """Rows of several batches under one another."""
    return Patterns(np.concatenate([part.values for part in parts]), parts[0].features, parts[0].sites)
