"""Distance from the trusted mean of the class that the target predicts."""

from collections.abc import Sequence

from madpipe.detectors.detector import Floats
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.sites import Classes, SiteDetector, class_means


class MahalanobisPerClass(SiteDetector):
    """score = -d(x - m_c), d the Mahalanobis distance in the covariance within classes, c the predicted class.

    One covariance for all classes, as in Lee, Lee, Lee, Shin (2018), who take the nearest class where we take the
    target's own: an input that looks like one class and is called another is what is looked for. A class of fewer than
    two trusted rows has the mean of all rows.
    """

    def __init__(self, *, sites: Sequence[str] | None = None, contamination: float = 0.05):
        self.sites = sites
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        self.known_classes_, self.class_means_ = class_means(self._columns(X), self._classes(X))
        self.within_ = MahalanobisDetector().fit(self._centred(X))

    def _score_samples(self, X: Floats) -> Floats:
        return self.within_.score_checked(self._centred(X))

    def _centred(self, X: Floats) -> Floats:
        return self._columns(X) - self.class_means_[Classes(self.known_classes_).index(self._classes(X))]
