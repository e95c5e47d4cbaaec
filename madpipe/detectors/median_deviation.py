"""How far a row's features lie outside the usual range of its predicted class, in median absolute deviations."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Floats
from madpipe.detectors.sites import Classes, SiteDetector

SMALLEST_CLASS = 5  # trusted rows; fewer have no spread to speak of
SMALLEST_SPREAD = 1e-6  # of the median: below that it is rounding noise of float32 values


class MedianDeviation(SiteDetector):
    """score = -mean_l mean_j max(|x_j - m_cj| / s_cj - `width`, 0) over the columns j of each site l, c being the
    predicted class, m_cj the median and s_cj the median absolute deviation of its trusted rows.

    On Gram matrices, with a width of 10, this is Beatrix of Ma et al. (2023), after Sastry and Oore (2020), who divide
    by the edge of the range, median +- width deviations, where we divide by the deviation: an edge is 0 where a unit is
    silent. Rows inside the range are all alike to it; the default width of 0 tells them apart. A spread of 0 is taken
    from all classes, or from the other columns. A class of fewer than five trusted rows is held to all rows' range.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SiteDetector._parameter_constraints,
        "width": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, *, width: float = 0.0, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.width = width
        self.sites = sites
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        rows, classes = self._columns(X), self._classes(X)
        self.known_classes_ = Classes.of(classes, SMALLEST_CLASS).known
        of_all = _median_and_spread(rows)
        positive = of_all[1][of_all[1] > 0]
        fallback = np.where(of_all[1] > 0, of_all[1], np.median(positive) if len(positive) else 1.0)
        ranges = [*(_median_and_spread(rows[classes == value]) for value in self.known_classes_), of_all]
        self.medians_ = np.stack([median for median, _ in ranges])
        self.spreads_ = np.stack([np.where(spread > 0, spread, fallback) for _, spread in ranges])

    def _score_samples(self, X: Floats) -> Floats:
        own = Classes(self.known_classes_).index(self._classes(X))
        scores = np.zeros(len(X))
        for index in np.unique(own):
            part = own == index
            away = np.abs(self._columns(X[part]) - self.medians_[index]) / self.spreads_[index]
            scores[part] = -self._mean_over_sites(np.maximum(away - self.width, 0))
        return scores

    def _mean_over_sites(self, excess: Floats) -> Floats:
        if self.sites is None:
            return np.asarray(excess.mean(axis=1))
        owners = self._columns(np.asarray(self.sites)[None])[0]
        return np.mean([excess[:, owners == site].mean(axis=1) for site in dict.fromkeys(owners.tolist())], axis=0)


def _median_and_spread(rows: Floats) -> tuple[Floats, Floats]:
    """Median and median absolute deviation of each column; a spread of rounding noise counts as 0."""
    median = np.median(rows, axis=0)
    spread = np.median(np.abs(rows - median), axis=0)
    return median, np.where(spread > SMALLEST_SPREAD * np.abs(median), spread, 0.0)
