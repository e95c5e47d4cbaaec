"""Members: one detector each, on the features of one extractor; and the combiner that makes one score of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.detectors.detector import Detector
from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns, stack
from madpipe.registry import DETECTORS, EXTRACTORS

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A detector that reads the features matching `features` of the extractor `patterns`."""

    name: str
    patterns: str
    features: tuple[str, ...]
    combine: bool
    detector: Any

    def score_samples(self, patterns: Mapping[str, Patterns]) -> Floats:
        """Higher = more normal, [B]."""
        chosen = member_columns(self.name, self.features, patterns[self.patterns])
        return _scores(self.detector, chosen)


@dataclass(frozen=True)
class MemberSet:
    """Extractors, the members that read them, and the combiner over the members' anomaly scores."""

    extractors: Mapping[str, Extractor]
    members: Sequence[Member]
    combiner: Any

    def score(self, observation: Observation) -> tuple[Floats, dict[str, Floats]]:
        """The combined score and each member's, all as score_samples: higher = more normal, [B]."""
        patterns = {name: extractor.extract(observation) for name, extractor in self.extractors.items()}
        scores = {member.name: member.score_samples(patterns) for member in self.members}
        return self._combine(scores), scores

    def _combine(self, scores: Mapping[str, Floats]) -> Floats:
        alarms = np.stack([-scores[member.name] for member in self.members if member.combine], axis=1)
        return _scores(self.combiner, alarms)


def _scores(detector: Any, rows: NDArray[np.floating]) -> Floats:
    """`score_samples`; our own detectors skip checking rows that our own extractors made."""
    if isinstance(detector, Detector):
        return detector.score_checked(np.asarray(rows, dtype=np.float64))
    return np.asarray(detector.score_samples(rows), dtype=np.float64)


def fit_members(
    detectors: Mapping[str, Any],
    extractors: Mapping[str, Extractor],
    fit: Sequence[Observation],
    validation: Sequence[Observation],
) -> MemberSet:
    """Fit extractors on fit rows, each member on the rows its extractor asks for, the combiner on validation rows.

    `detectors` is the resolved `detectors` section of a config.
    """
    for extractor in extractors.values():
        extractor.fit(fit)
    rows = {
        name: _extract(extractor, validation if extractor.fitted_rows == "validation" else fit)
        for name, extractor in extractors.items()
    }
    members = [_fit_member(name, spec, rows) for name, spec in detectors["members"].items()]
    combiner = build_detector(detectors["combiner"])
    combined = [member for member in members if member.combine]
    needed = {member.patterns for member in combined}
    fresh = {name: _extract(extractors[name], validation) for name in needed}
    alarms = np.stack([-member.score_samples(fresh) for member in combined], axis=1)
    return MemberSet(extractors, members, combiner.fit(alarms))


def member_columns(name: str, globs: Sequence[str], patterns: Patterns) -> NDArray[np.floating]:
    """The features [n, F] that the member called `name` reads; UnknownNameError when a glob matches none."""
    return patterns.columns(globs, f"detectors.members.{name}.features: ")


def build_detector(spec: Mapping[str, Any]) -> Any:
    """An unfitted estimator from `{detector: name, options: {...}}`."""
    return DETECTORS.load(spec["detector"])(**spec["options"])


def build_extractors(patterns: Mapping[str, Mapping[str, Any]], method: Any, seed: int) -> dict[str, Extractor]:
    """Unfitted extractors from the resolved `patterns` section."""
    built = {}
    for name, options in patterns.items():
        extractor = EXTRACTORS.load(name)
        built[name] = extractor(extractor.Config.model_validate(options), method, seed)
    return built


def _fit_member(name: str, spec: Mapping[str, Any], rows: Mapping[str, Patterns]) -> Member:
    features = tuple(spec["features"])
    chosen = member_columns(name, features, rows[spec["patterns"]])
    return Member(
        name=name,
        patterns=spec["patterns"],
        features=features,
        combine=spec["combine"],
        detector=build_detector(spec).fit(chosen),
    )


def _extract(extractor: Extractor, observations: Iterable[Observation]) -> Patterns:
    return stack([extractor.extract(observation) for observation in observations])
