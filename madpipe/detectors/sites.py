"""Detectors that know what their columns are: which belong to one layer, and which holds the predicted class."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.detectors.detector import Detector, Floats

PREDICTED_CLASS = "predicted_class"  # the site of the column that holds the class which the target predicts
SMALLEST_CLASS = 2  # trusted rows; a class with fewer has no mean of its own


class SiteDetector(Detector):
    """`sites` names the site of each column, as patterns do. Columns of one site are a group.

    The column at site "predicted_class", if there is one, holds the class that the target predicts and belongs to no
    group. Without `sites` all columns are one group and all rows of one class.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "sites": ["array-like", None],
    }
    sites: Sequence[str] | None

    def _groups(self, X: Floats) -> list[Floats]:
        """The columns of each site [n, F_l], sites in their order."""
        if self.sites is None:
            return [X]
        owners = np.asarray(self.sites)
        return [X[:, owners == site] for site in dict.fromkeys(self.sites) if site != PREDICTED_CLASS]

    def _columns(self, X: Floats) -> Floats:
        """All columns but the class."""
        return X if self.sites is None else X[:, np.asarray(self.sites) != PREDICTED_CLASS]

    def _classes(self, X: Floats) -> Floats:
        """The predicted class of each row, [n]; 0 where no column holds it."""
        own = [] if self.sites is None else [i for i, site in enumerate(self.sites) if site == PREDICTED_CLASS]
        return X[:, own[0]] if own else np.zeros(len(X))

    def _check(self, X: ArrayLike, *, reset: bool) -> Floats:
        rows = super()._check(X, reset=reset)
        if self.sites is not None and len(self.sites) != rows.shape[1]:
            raise ValueError(f"sites names {len(self.sites)} columns, the rows have {rows.shape[1]}")
        if self.sites is not None and set(self.sites) <= {PREDICTED_CLASS}:
            raise ValueError("sites names no column but the predicted class; there is nothing to score")
        return rows


class Classes:
    """Trusted classes with enough rows, in a form that is stored as plain arrays: `known` [K], ascending."""

    def __init__(self, known: Floats):
        self.known = known

    @classmethod
    def of(cls, classes: Floats, smallest: int = SMALLEST_CLASS) -> "Classes":
        values, counts = np.unique(classes, return_counts=True)
        return cls(values[counts >= smallest])

    def index(self, classes: Floats) -> NDArray[np.int64]:
        """Place of each class in `known`; K, the place of what holds for all rows, where it is unknown."""
        place = np.searchsorted(self.known, classes)
        found = place < len(self.known)
        found[found] = self.known[place[found]] == classes[found]
        return np.where(found, place, len(self.known))


def class_means(X: Floats, classes: Floats) -> tuple[Floats, Floats]:
    """Known classes [K] and their means [K + 1, F], the last being that of all rows."""
    known = Classes.of(classes).known
    means = [X[classes == value].mean(axis=0) for value in known]
    return known, np.stack([*means, X.mean(axis=0)])
