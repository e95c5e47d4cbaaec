"""How far a row lies along the direction in which untrusted rows of its predicted class spread most: offline."""

from collections.abc import Sequence

import numpy as np

from madpipe.detectors.detector import Floats, OfflineDetector
from madpipe.detectors.sites import Classes, SiteDetector, class_means

LARGEST_PROJECTION = 1e150  # its square is finite


class SpectralSignature(SiteDetector, OfflineDetector):
    """score = -((x - m_c) . v_c)^2, m_c the mean and v_c the first principal direction of the untrusted rows whose
    predicted class c is this row's; a class with fewer than two takes those of all rows.

    Tran, Li, Madry (2018), on the representation before the last layer, with the predicted class for the label. It
    finds anomalies that are a sizeable share of a class's untrusted rows. Trusted rows are used only where there are
    no untrusted ones. Offline: it wants `untrusted` rows with some anomalies.
    """

    def __init__(self, *, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.sites = sites
        self.contamination = contamination

    def _fit_mixed(self, X: Floats, untrusted: Floats) -> None:
        rows, classes = self._columns(untrusted), self._classes(untrusted)
        self.known_classes_, self.class_means_ = class_means(rows, classes)
        own = [rows[classes == value] for value in self.known_classes_]
        centred = [part - mean for part, mean in zip([*own, rows], self.class_means_, strict=True)]
        self.directions_ = np.stack([np.linalg.svd(part, full_matrices=False)[2][0] for part in centred])

    def _score_samples(self, X: Floats) -> Floats:
        own = Classes(self.known_classes_).index(self._classes(X))
        along = np.einsum("nf,nf->n", self._columns(X) - self.class_means_[own], self.directions_[own])
        return -(np.clip(along, -LARGEST_PROJECTION, LARGEST_PROJECTION) ** 2)
