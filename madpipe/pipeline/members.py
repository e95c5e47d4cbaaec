"""Members: one detector each, on the features of one extractor; a combiner makes one score of theirs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madpipe.detectors.detector import Detector, OfflineDetector
from madpipe.detectors.sites import SiteDetector
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


def combined_scores(combiner: Any, members: Sequence[Member], scores: Mapping[str, Floats]) -> Floats:
    """The combiner's score_samples of the members that are combined: higher = more normal, [n] each -> [n]."""
    return _scores(combiner, _alarms(members, scores))


def _alarms(members: Sequence[Member], scores: Mapping[str, Floats]) -> Floats:
    """Anomaly scores [n, members] of those that are combined."""
    return np.stack([-scores[member.name] for member in members if member.combine], axis=1)


def _scores(detector: Any, rows: NDArray[np.floating]) -> Floats:
    """`score_samples`; our own detectors skip checking rows that our own extractors made."""
    if isinstance(detector, Detector):
        return detector.score_checked(np.asarray(rows, dtype=np.float64))
    return np.asarray(detector.score_samples(rows), dtype=np.float64)


def fit_members(
    detectors: Mapping[str, Any],
    extractors: Sequence[Mapping[str, Extractor]],
    fit: Sequence[Sequence[Observation]],
    validation: Sequence[Sequence[Observation]],
    sharing: bool,
) -> tuple[list[tuple[Member, ...]], Floats]:
    """(each fold's members, anomaly scores [rows, members] of validation rows, each by the fold that it is held out of)

    `detectors` is the resolved `detectors` section of a config; the other arguments have an entry for each fold. A
    detector of features that are honest on held-out rows alone is fitted once, on those of all folds; any other in each
    fold, on its fit rows. `sharing`: extractors that folds may share learn from all of them.
    """
    for name, first in extractors[0].items():
        if sharing and first.shared:
            first.fit(observation for seen in fit for observation in seen)
            for own in extractors[1:]:
                own[name].restore(first.state())
        else:
            for own, seen in zip(extractors, fit, strict=True):
                own[name].fit(seen)
    fresh = _features(extractors, validation)
    members = [dict[str, Member]() for _ in extractors]
    for name, spec in detectors["members"].items():
        if extractors[0][spec["patterns"]].fitted_rows == "validation":
            shared = _fit_member(name, spec, stack([rows[spec["patterns"]] for rows in fresh]))
            for own_members in members:
                own_members[name] = shared
        else:
            for own_members, own, seen in zip(members, extractors, fit, strict=True):
                own_members[name] = _fit_member(name, spec, _extract(own[spec["patterns"]], seen))
    alarms = [
        _alarms(list(own.values()), {name: member.score_samples(rows) for name, member in own.items()})
        for own, rows in zip(members, fresh, strict=True)
    ]
    return [tuple(own.values()) for own in members], np.concatenate(alarms)


def member_columns(name: str, globs: Sequence[str], patterns: Patterns) -> NDArray[np.floating]:
    """The features [n, F] that the member called `name` reads; UnknownNameError when a glob matches none."""
    return patterns.columns(globs, feature_key(name))


def feature_key(name: str) -> str:
    """The config key that names a member's features, as the beginning of an error."""
    return f"detectors.members.{name}.features: "


def build_detector(spec: Mapping[str, Any]) -> Any:
    """An unfitted estimator from `{detector: name, options: {...}}`."""
    return DETECTORS.load(spec["detector"])(**spec["options"])


def fit_detector(spec: Mapping[str, Any], trusted: Patterns, untrusted: Patterns | None = None) -> Any:
    """`build_detector`, fitted on trusted rows; told the columns' sites if it asks for them.

    An offline detector also learns from unlabelled rows, where there are any.
    """
    detector = build_detector(spec)
    if isinstance(detector, SiteDetector) and detector.sites is None:
        detector.set_params(sites=trusted.sites)
    if isinstance(detector, OfflineDetector) and untrusted is not None:
        return detector.fit(trusted.values, untrusted=untrusted.values)
    return detector.fit(trusted.values)


def build_extractors(patterns: Mapping[str, Mapping[str, Any]], method: Any, seed: int) -> dict[str, Extractor]:
    """Unfitted extractors from the resolved `patterns` section."""
    built = {}
    for name, options in patterns.items():
        extractor = EXTRACTORS.load(name)
        built[name] = extractor(extractor.Config.model_validate(options), method, seed)
    return built


def _fit_member(name: str, spec: Mapping[str, Any], rows: Patterns) -> Member:
    features = tuple(spec["features"])
    return Member(
        name=name,
        patterns=spec["patterns"],
        features=features,
        combine=spec["combine"],
        detector=fit_detector(spec, rows.select(features, feature_key(name))),
    )


def _features(
    extractors: Sequence[Mapping[str, Extractor]], observations: Sequence[Sequence[Observation]]
) -> list[dict[str, Patterns]]:
    """Of each fold, the features of its own observations, by extractor."""
    return [
        {name: _extract(extractor, seen) for name, extractor in own.items()}
        for own, seen in zip(extractors, observations, strict=True)
    ]


def _extract(extractor: Extractor, observations: Iterable[Observation]) -> Patterns:
    return stack([extractor.extract(observation) for observation in observations])
