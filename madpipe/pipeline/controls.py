"""Controls: the field's detectors fitted on the same trusted rows, so that beating them means something.

Input-only (if it wins, the task is input novelty), output-only, a student distilled on trusted data, a trusted copy of
the target under weight decay, and detectors of activations and of blended inputs. Each is ranked on the pipeline's own
calibration rows. `union_of_controls` is what someone has who runs all of them and looks at the most alarmed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from madpipe.detectors.conformal import p_values
from madpipe.detectors.union import union_of_scores
from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observer
from madpipe.patterns.pattern import Patterns, stack
from madpipe.pipeline.control_subject import ControlSubject
from madpipe.pipeline.members import build_extractors, fit_detector
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import TrustedRows
from madpipe.registry import DETECTORS

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Report = Callable[[str], None]

RAW = "raw"  # in place of a detector: the one feature is an anomaly score as it is
UNION = "union_of_controls"


@dataclass(frozen=True, kw_only=True)
class Control:
    """A detector of an extractor's features; `settings` are the extractor's, `options` the detector's."""

    patterns: str
    detector: str = RAW
    features: tuple[str, ...] = ("*",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def offline(self) -> bool:
        return self.detector != RAW and bool(getattr(DETECTORS.load(self.detector), "offline", False))


class ControlScores(NamedTuple):
    """Of N rows: anomaly scores and p-values [N]; what a row costs in forward passes, detectors' own work left out."""

    anomaly_score: Floats
    p_value: Floats
    passes: float


Features = Mapping[str, Patterns]  # of each part: fit, validation, calibration, new and perhaps untrusted
Scored = Mapping[str, Floats]  # anomaly scores of each part in SCORED
SCORED = ("validation", "calibration", "new")

_WITH_CLASS: dict[str, Any] = {"predicted_class": True}
_PENULTIMATE: dict[str, Any] = {"layers": ("last",), "output": False, "predicted_class": True}
CONTROLS: dict[str, Control] = {
    **{f"input_{d}": Control(patterns="inputs", detector=d) for d in ("mahalanobis", "knn", "lof", "one_class_svm")},
    **{
        f"output_{f}": Control(patterns="outputs", features=(f,))
        for f in ("max_probability", "energy", "entropy", "magnitude")
    },
    **{f"{p}_{f}": Control(patterns=p, features=(f,)) for p in ("student", "trusted_copy") for f in ("kl", "l2")},
    **{
        f"activations_{d}": Control(patterns="activations", detector=d)
        for d in ("mahalanobis", "knn", "lof", "one_class_svm", "isolation_forest", "gaussian_mixture")
    },
    "activations_mahalanobis_per_site": Control(patterns="activations", detector="mahalanobis_per_site"),
    "activations_two_sided_mahalanobis": Control(patterns="activations", detector="two_sided_mahalanobis"),
    **{
        f"activations_{d}": Control(patterns="activations", detector=d, settings=_WITH_CLASS)
        for d in ("mahalanobis_per_class", "relative_mahalanobis")
    },
    "ted": Control(patterns="activations", detector="topological_evolution", settings=_WITH_CLASS),
    "beatrix": Control(patterns="gram_matrices", detector="median_deviation", options={"width": 10.0}),
    "gram_median_deviation": Control(patterns="gram_matrices", detector="median_deviation"),
    "strip": Control(patterns="strip"),
    **{
        f"dictionary_{f}": Control(patterns="dictionary_latents", features=(f,))
        for f in ("novel_count", "novel_mass", "error")
    },
    "que": Control(patterns="activations", detector="quantum_entropy"),
    "spectral_signature": Control(patterns="activations", detector="spectral_signature", settings=_PENULTIMATE),
}


@torch.no_grad()
def control_scores(
    pipeline: Pipeline | ControlSubject,
    trusted: TrustedRows,
    x: Rows,
    report: Report,
    untrusted: Rows | None = None,
) -> dict[str, ControlScores]:
    """Fit every control on trusted rows and score x [N, ...], which have no part in the fit.

    Offline controls also learn from `untrusted` [m, ...], and are left out without; the union is of the online ones.
    """
    scored: dict[str, tuple[Scored, float]] = {}
    trusted = trusted.for_one_fit()
    for names, extractor in _extractors(pipeline, _usable(untrusted is not None, report)):
        if reason := extractor.refusal():
            report(f"Left out {', '.join(names)}: {reason}.")
            continue
        report(f"Fitting controls on {extractor.name} ...")
        passes = extractor.passes
        assert passes is not None, f"nobody has counted the passes of {extractor.name}"
        features = _features(pipeline, extractor, trusted, x, untrusted)
        for name in names:
            if CONTROLS[name].features == ("*",) or set(CONTROLS[name].features) <= set(features["fit"].features):
                scored[name] = _anomaly_scores(CONTROLS[name], extractor.fitted_rows, features), passes
    results = {
        name: ControlScores(parts["new"], p_values(-parts["new"], -parts["calibration"]), passes)
        for name, (parts, passes) in sorted(scored.items(), key=lambda item: list(CONTROLS).index(item[0]))
    }
    return results | {UNION: _union({name: scored[name] for name in results if not CONTROLS[name].offline})}


def _usable(with_untrusted: bool, report: Report) -> list[str]:
    """Names of the controls that can be fitted with what there is."""
    offline = [name for name, control in CONTROLS.items() if control.offline]
    if with_untrusted:
        return list(CONTROLS)
    report(f"Left out {', '.join(offline)}: they learn from unlabelled untrusted rows, and there are none.")
    return [name for name in CONTROLS if name not in offline]


def _extractors(pipeline: Pipeline | ControlSubject, names: Sequence[str]) -> Iterable[tuple[list[str], Extractor]]:
    """Unfitted extractors, each with the controls that read it."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(f"{CONTROLS[name].patterns} {CONTROLS[name].settings}", []).append(name)
    method, seed = pipeline.method, pipeline.facts["seed"]
    for together in groups.values():
        control = CONTROLS[together[0]]
        yield together, build_extractors({control.patterns: control.settings}, method, seed)[control.patterns]


def _features(
    pipeline: Pipeline | ControlSubject, extractor: Extractor, trusted: TrustedRows, x: Rows, untrusted: Rows | None
) -> Features:
    """Patterns of each part, from an extractor fitted on the trusted fit rows."""
    observer, size = Observer(extractor.method), pipeline.batch_size
    parts = {**vars(trusted), "new": x} | ({} if untrusted is None else {"untrusted": untrusted})
    tensors = {name: torch.from_numpy(np.array(rows)) for name, rows in parts.items()}
    extractor.fit(observer.batches(tensors["fit"], size))
    return {
        name: stack([extractor.extract(seen) for seen in observer.batches(rows, size)])
        for name, rows in tensors.items()
    }


def _anomaly_scores(control: Control, fitted_rows: str, features: Features) -> Scored:
    """Higher = worse, [n] of each part."""
    chosen = {name: part.select(control.features) for name, part in features.items()}
    if control.detector == RAW:
        return {name: chosen[name].values[:, 0].astype(np.float64) for name in SCORED}
    spec = {"detector": control.detector, "options": control.options}
    detector = fit_detector(spec, chosen[fitted_rows], chosen.get("untrusted"))
    return {name: -np.asarray(detector.score_samples(chosen[name].values), np.float64) for name in SCORED}


def _union(scored: Mapping[str, tuple[Scored, float]]) -> ControlScores:
    """Costs one clean pass and whatever else each kind of features needs."""
    columns = (np.stack([parts[name] for parts, _ in scored.values()]) for name in SCORED)
    own = {CONTROLS[name].patterns: max(passes - 1, 0) for name, (_, passes) in scored.items()}
    return ControlScores(*union_of_scores(*columns), 1 + sum(own.values()))
