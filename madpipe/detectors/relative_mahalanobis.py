"""How much farther a row is from its class than from the trusted rows as a whole."""

from madpipe.detectors.detector import Floats
from madpipe.detectors.mahalanobis import MahalanobisDetector
from madpipe.detectors.mahalanobis_per_class import MahalanobisPerClass


class RelativeMahalanobis(MahalanobisPerClass):
    """score = d_0(x)^2 - d_c(x)^2: distances from the mean of all rows, and from that of the predicted class.

    What every class has in common cancels. Ren, Fort, Liu, Guha Roy, Padhy, Lakshminarayanan (2021), who take the
    nearest class where we take the target's own. Where all trusted rows are of one class, d_0 is left out.
    """

    def _fit(self, X: Floats) -> None:
        super()._fit(X)
        self.background_ = MahalanobisDetector().fit(self._columns(X))

    def _score_samples(self, X: Floats) -> Floats:
        own = self.within_.score_checked(self._centred(X)) ** 2
        if len(self.known_classes_) < 2:
            return -own
        return self.background_.score_checked(self._columns(X)) ** 2 - own
