"""Controls: simple detectors fitted on the same trusted rows, so that beating them means something.

Input-only (if it wins, the task is input novelty), output-only, a student distilled on trusted data, a trusted copy of
the target under weight decay, and the activation detectors of the field. Each is ranked on the pipeline's own
calibration rows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from madpipe.detectors.conformal import p_values
from madpipe.patterns.observation import Observer
from madpipe.patterns.pattern import Patterns, stack
from madpipe.pipeline.members import build_detector, build_extractors
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import TrustedRows

Floats = NDArray[np.float64]

_PLAIN = ("mahalanobis", "knn", "lof", "one_class_svm", "isolation_forest", "gaussian_mixture")
CONTROLS: dict[str, dict[str, Any]] = {
    **{f"input_{d}": {"patterns": "inputs", "detector": d} for d in ("mahalanobis", "knn", "lof", "one_class_svm")},
    **{
        f"output_{f}": {"patterns": "outputs", "features": [f], "detector": "raw"}
        for f in ("max_probability", "energy", "entropy")
    },
    "student_kl": {"patterns": "student", "features": ["kl"], "detector": "raw"},
    "student_l2": {"patterns": "student", "features": ["l2"], "detector": "raw"},
    "trusted_copy_kl": {"patterns": "trusted_copy", "features": ["kl"], "detector": "raw"},
    "trusted_copy_l2": {"patterns": "trusted_copy", "features": ["l2"], "detector": "raw"},
    **{f"activations_{d}": {"patterns": "activations", "detector": d} for d in _PLAIN},
}


@torch.no_grad()
def control_scores(
    pipeline: Pipeline, trusted: TrustedRows, x: NDArray[np.float32], report: Callable[[str], None]
) -> dict[str, tuple[Floats, Floats]]:
    """Fit every control on trusted fit rows and score x [N, ...]: name -> (anomaly scores, p-values), each [N]."""
    method = pipeline.folds[0].observer.method
    observer, size = Observer(method), pipeline.batch_size
    groups: dict[str, list[str]] = {}
    for name, spec in CONTROLS.items():
        groups.setdefault(spec["patterns"], []).append(name)
    results = {}
    for patterns, names in groups.items():
        report(f"Fitting controls on {patterns} ...")
        extractor = build_extractors({patterns: {}}, method, pipeline.facts["seed"])[patterns]
        extractor.fit(observer.batches(torch.from_numpy(trusted.fit), size))
        parts = (trusted.fit, trusted.calibration, x)
        fit, calibration, new = (
            stack([extractor.extract(seen) for seen in observer.batches(torch.from_numpy(np.array(rows)), size)])
            for rows in parts
        )
        for name in names:
            results[name] = _score_control(CONTROLS[name], fit, calibration, new)
    return results


def _score_control(
    spec: Mapping[str, Any], fit: Patterns, calibration: Patterns, new: Patterns
) -> tuple[Floats, Floats]:
    """`raw` takes a single feature as it is: it is an anomaly score already."""
    globs = spec.get("features", ["*"])
    if spec["detector"] == "raw":
        ranked, scores = -calibration.columns(globs)[:, 0], -new.columns(globs)[:, 0]
    else:
        detector = build_detector({"detector": spec["detector"], "options": {}}).fit(fit.columns(globs))
        ranked, scores = detector.score_samples(calibration.columns(globs)), detector.score_samples(new.columns(globs))
    return -np.asarray(scores, dtype=np.float64), p_values(scores, ranked)
