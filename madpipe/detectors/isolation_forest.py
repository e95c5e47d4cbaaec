"""How few random cuts set a row apart."""

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.utils._param_validation import Interval

from madpipe.detectors.detector import Detector, Floats

LARGEST_BLOCK = 2**20  # row-tree pairs followed at once: about 32 MiB


class IsolationForestDetector(Detector):
    """score = -2^(-mean depth / c(m)) in [-1, 0]: the depth at which a row stands alone, averaged over trees, set
    against c(m), the mean depth in a random tree of the m rows each was grown on. Free of scale; far away it saturates.

    Liu, Ting, Zhou (2008), eq. 1 and 2. Grown by scikit-learn, and the same numbers as its IsolationForest; kept as
    plain arrays [trees, nodes], so that reading a saved forest follows no index that is not checked.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Detector._parameter_constraints,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, *, n_estimators: int = 100, random_state: int | None = 0, contamination: float = 0.05):
        self.n_estimators = n_estimators
        self.random_state = random_state
        self.contamination = contamination

    def _fit(self, X: Floats) -> None:
        forest = IsolationForest(n_estimators=self.n_estimators, random_state=self.random_state).fit(X)
        trees = [estimator.tree_ for estimator in forest.estimators_]
        nodes = max(tree.node_count for tree in trees)

        def stacked(name: str) -> np.ndarray:
            padded = [np.pad(getattr(t, name), (0, nodes - t.node_count), constant_values=-1) for t in trees]
            return np.stack(padded)

        leaf = stacked("children_left") < 0
        own = np.arange(nodes)  # a leaf leads to itself: rows that have arrived stay
        self.left_ = np.where(leaf, own, stacked("children_left"))
        self.right_ = np.where(leaf, own, stacked("children_right"))
        self.feature_ = np.where(leaf, 0, stacked("feature"))
        self.threshold_ = stacked("threshold")
        self.max_depth_ = max(tree.max_depth for tree in trees)
        self.path_length_ = self._depths() + mean_path_length(stacked("n_node_samples"))
        self.normaliser_ = float(mean_path_length(np.array(forest.max_samples_)))

    def _depths(self) -> Floats:
        """Number of cuts above each node, [trees, nodes]."""
        depths = np.zeros(self.left_.shape)
        trees = np.arange(len(self.left_))[:, None]
        for _ in range(self.max_depth_):
            for children in (self.left_, self.right_):
                inner = children != np.arange(children.shape[1])
                depths[np.broadcast_to(trees, inner.shape)[inner], children[inner]] = depths[inner] + 1
        return depths

    def _score_samples(self, X: Floats) -> Floats:
        rows = X.astype(np.float32)  # scikit-learn compares in single precision
        size = max(LARGEST_BLOCK // len(self.left_), 1)
        means = [self._mean_path_lengths(rows[start : start + size]) for start in range(0, len(rows), size)]
        return -(2.0 ** (-np.concatenate(means) / max(self.normaliser_, np.finfo(float).tiny)))

    def _mean_path_lengths(self, rows: np.ndarray) -> Floats:
        trees, row = np.arange(len(self.left_)), np.arange(len(rows))[:, None]
        node = np.zeros((len(rows), len(trees)), np.int64)
        for _ in range(self.max_depth_):
            goes_left = rows[row, self.feature_[trees, node]] <= self.threshold_[trees, node]
            node = np.where(goes_left, self.left_[trees, node], self.right_[trees, node])
        lengths: Floats = self.path_length_[trees, node].mean(axis=1)
        return lengths


def mean_path_length(row_count: np.ndarray) -> Floats:
    """c(m) = 2 H(m - 1) - 2 (m - 1) / m, the mean depth of a failed search in a random tree of m rows; 0 for m <= 1."""
    counts = np.asarray(row_count, dtype=np.float64)
    safe = np.maximum(counts, 3.0)
    general = 2 * (np.log(safe - 1) + np.euler_gamma) - 2 * (safe - 1) / safe
    return np.select([counts <= 1, counts <= 2], [0.0, 1.0], general)
