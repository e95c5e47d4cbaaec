"""From layer to layer, how many trusted rows come nearer than the nearest one of the same predicted class."""

from collections.abc import Sequence

import numpy as np

from madpipe.detectors.detector import Floats
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.sites import SiteDetector

LARGEST_BLOCK = 2**21  # distances held at once: 16 MiB
ROUNDING = 1e-9  # of a squared distance: rows that differ by less are equally near, whatever the batch


class TopologicalEvolution(SiteDetector):
    """score = -d(r_1 - 1 ... r_L - 1), d the Mahalanobis distance from zero, r_l the rank by Euclidean distance at site
    l, among all trusted rows, of the nearest one whose predicted class is this row's: 1 when the nearest row is of its
    class, one more than all trusted rows when none is.

    TED: Mo et al. (2024), who look for outliers among rank vectors by principal components; the Mahalanobis distance is
    theirs with every component kept, and ours is from the ranks of a row that is next to its class everywhere, since
    nothing is more normal than that. A trusted row's own ranks leave itself out. With one class it sees nothing.
    """

    def __init__(self, *, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.sites = sites
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.means_ = [group.mean(axis=0) for group in self._groups(X)]
        self.trusted_ = [group - mean for group, mean in zip(self._groups(X), self.means_, strict=True)]
        self.trusted_classes_ = self._classes(X)
        beyond = self._ranks(X, are_trusted=True) - 1
        self.of_ranks_ = MahalanobisDetector().fit(np.concatenate([beyond, -beyond]))  # of mean zero

    def _score_samples(self, X: Floats) -> Floats:
        return self.of_ranks_.score_checked(self._ranks(X) - 1)

    def _ranks(self, X: Floats, *, are_trusted: bool = False) -> Floats:
        """[n, L]; `are_trusted`: X are the fitted rows, in their order."""
        classes, parts = self._classes(X), zip(self._groups(X), self.means_, self.trusted_, strict=True)
        return np.stack([self._site_ranks(x - mean, t, classes, are_trusted) for x, mean, t in parts], axis=1)

    def _site_ranks(self, rows: Floats, trusted: Floats, classes: Floats, are_trusted: bool) -> Floats:
        squares, ranks = np.einsum("nf,nf->n", trusted, trusted), np.empty(len(rows))
        size = max(LARGEST_BLOCK // len(trusted), 1)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            own = np.einsum("nf,nf->n", rows[part], rows[part])[:, None]
            away = own + squares - 2 * (rows[part] @ trusted.T)
            if are_trusted:
                away[np.arange(len(away)), np.arange(start, start + len(away))] = np.inf
            alike = classes[part, None] == self.trusted_classes_
            nearest = np.where(alike, away, np.inf).min(axis=1, keepdims=True)
            ranks[part] = 1 + (away < nearest - ROUNDING * (own + squares)).sum(axis=1)
        return ranks
