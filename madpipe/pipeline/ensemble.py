"""The folds of a pipeline together: member scores averaged over folds, one combiner, one calibration.

Each fold's decomposition was trained without one part of the trusted rows, and detectors and the combiner learn their
scales from what the fold's features are on that part, all parts together. Where all folds score every input, explained
networks are means over folds (patterns/observation.py), so that others of a mean have seen the part: scales are those
of the very networks that score, a little narrow, and calibration rows, which none has seen, decide what they are worth.
Where folds take turns at calibration, each scores by its own network.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.data.inputs import read_array
from madpipe.data.splits import Split
from madpipe.decomposition.method import Method
from madpipe.detectors import storage
from madpipe.detectors.conformal import cross_p_values
from madpipe.patterns.batches import scoring_batches
from madpipe.patterns.involvement import Involvement
from madpipe.patterns.observation import JointObserver, Observation, Observer
from madpipe.pipeline.fold import Fold
from madpipe.pipeline.members import build_detector, build_extractors, combined_scores, fit_members

Floats = NDArray[np.float64]
MemberScores = dict[str, Floats]


@dataclass(frozen=True)
class Calibration:
    """score_samples of trusted rows that nothing was fitted on: higher = more normal.

    One array where the folds share their calibration rows, which are ranked by the folds' mean; else one array for each
    fold, of the rows it has not seen.
    """

    combined: Sequence[Floats]
    members: Mapping[str, Sequence[Floats]]

    @property
    def size(self) -> int:
        return sum(len(scores) for scores in self.combined)


@dataclass
class Ensemble:
    folds: Sequence[Fold]
    combiner: Any
    calibration: Calibration
    crossed: bool = False  # each fold calibrates on rows of its own

    def __post_init__(self) -> None:
        self.observer = JointObserver([fold.observer for fold in self.folds], averaged=not self.crossed)
        self._like = [self._first_like(k) for k in range(len(self.folds))]

    def _first_like(self, fold: int) -> int:
        """The first fold that scores every input as this one does: same networks, same detectors."""
        if self.crossed or not self.folds[fold].shares_extractors:
            return fold
        return self.observer.places.index(self.observer.places[fold])

    @property
    def member_names(self) -> list[str]:
        return [member.name for member in self.folds[0].members]

    def member_scores(self, observations: Sequence[Observation]) -> MemberScores:
        """Each member's score_samples of one batch by each fold, [K, B]; one observation for each fold."""
        scores = {k: self.folds[k].member_scores(observations[k]) for k in set(self._like)}
        return {name: np.stack([scores[k][name] for k in self._like]) for name in self.member_names}

    def combined(self, scores: MemberScores) -> Floats:
        """The combiner's score_samples of the members' mean over folds: [K, n] each -> [n]."""
        return combined_scores(self.combiner, self.folds[0].members, {name: s.mean(0) for name, s in scores.items()})

    def p_values(self, scores: MemberScores) -> Floats:
        """Ranks of inputs among the calibration rows: member scores [K, n] -> [n]."""
        return cross_p_values(self._to_rank(scores), self.calibration.combined)

    def member_p_values(self, scores: MemberScores) -> MemberScores:
        """Ranks of each member's own score among its own calibration scores."""
        own = {name: s if self.crossed else s.mean(0, keepdims=True) for name, s in scores.items()}
        return {name: cross_p_values(s, self.calibration.members[name]) for name, s in own.items()}

    def _to_rank(self, scores: MemberScores) -> Floats:
        if not self.crossed:
            return self.combined(scores)[None]
        members = self.folds[0].members
        per_fold = [{name: s[k] for name, s in scores.items()} for k in range(len(self.folds))]
        return np.stack([combined_scores(self.combiner, members, own) for own in per_fold])

    @torch.no_grad()
    def scores_of(self, x: Tensor, batch_size: int) -> MemberScores:
        """`member_scores` of x [N, ...], batch by batch."""
        parts = [
            {name: scores[:, :count] for name, scores in self.member_scores(self.observer.observe(part)).items()}
            for part, count in scoring_batches(self._ready(x), batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def _ready(self, x: Tensor) -> Tensor:
        """x in the decompositions' own precision, on their device."""
        return x.to(self.folds[0].observer.method.model.V[0])

    def calibrate(self, x: Tensor, batch_size: int) -> None:
        """Rank against x from now on: rows that nothing here was fitted on."""
        scores = self.scores_of(x, batch_size)
        self.calibration = Calibration([self.combined(scores)], {name: [s.mean(0)] for name, s in scores.items()})

    def calibrate_crossed(self, parts: Sequence[Tensor], batch_size: int) -> None:
        """Rank against the rows of every part [n_k, ...] from now on, each scored by the fold that has not seen it."""
        combined: list[Floats] = []
        members: dict[str, list[Floats]] = {name: [] for name in self.member_names}
        for fold, x in zip(self.folds, parts, strict=True):
            own = _stacked(
                {name: scores[:count] for name, scores in fold.member_scores(fold.observer.observe(part)).items()}
                for part, count in scoring_batches(self._ready(x), batch_size)
            )
            combined.append(combined_scores(self.combiner, fold.members, own))
            for name, scores in own.items():
                members[name].append(scores)
        self.calibration = Calibration(combined, members)


@torch.no_grad()
def fit_ensemble(methods: Sequence[Method], config: Mapping[str, Any], x: Tensor, splits: Sequence[Split]) -> Ensemble:
    """Fit members and the combiner on settled decompositions, one for each split of x [N, ...], and calibrate."""
    size, observers = config["scoring"]["batch_size"], [Observer(method) for method in methods]
    ranked = [split.calibration for split in splits]
    crossed = not all(np.array_equal(ranked[0], other) for other in ranked)
    joint = JointObserver(observers, averaged=not crossed)
    fit = [list(own.batches(_rows(x, split.fit), size)) for own, split in zip(observers, splits, strict=True)]
    validation = [
        [seen[k] for seen in joint.batches(_rows(x, split.validation), size)] for k, split in enumerate(splits)
    ]
    extractors = [build_extractors(config["patterns"], method, config["seed"]) for method in methods]
    members, alarms = fit_members(config["detectors"], extractors, fit, validation, sharing=not crossed)
    folds = []
    for k, observer in enumerate(observers):
        involvement = Involvement(observer, config["scoring"]["view"])
        involvement.fit(validation[k])
        folds.append(Fold(observer, extractors[k], members[k], involvement))
    combiner = build_detector(config["detectors"]["combiner"]).fit(alarms)
    ensemble = Ensemble(folds, combiner, Calibration([], {}), crossed)
    if crossed:
        ensemble.calibrate_crossed([_rows(x, rows) for rows in ranked], size)
    else:
        ensemble.calibrate(_rows(x, ranked[0]), size)
    return ensemble


def save_ensemble(ensemble: Ensemble, folder: Path) -> None:
    """combiner.skops and calibration.npz in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    storage.save(ensemble.combiner, folder / "combiner.skops")
    save_calibration(ensemble.calibration, folder)


def save_calibration(calibration: Calibration, folder: Path) -> None:
    arrays: dict[str, Any] = {f"combined:{k}": scores for k, scores in enumerate(calibration.combined)}
    for name, parts in calibration.members.items():
        arrays |= {f"member:{name}:{k}": scores for k, scores in enumerate(parts)}
    np.savez(folder / "calibration.npz", **arrays)


def load_ensemble(folder: Path, folds: Sequence[Fold], crossed: bool) -> Ensemble:
    path, parts = folder / "calibration.npz", range(len(folds) if crossed else 1)
    names = [member.name for member in folds[0].members]
    calibration = Calibration(
        [read_array(path, f"combined:{k}") for k in parts],
        {name: [read_array(path, f"member:{name}:{k}") for k in parts] for name in names},
    )
    return Ensemble(folds, storage.load(folder / "combiner.skops"), calibration, crossed)


def _rows(x: Tensor, indices: NDArray[np.int64]) -> Tensor:
    return x[torch.from_numpy(indices)]


def _stacked(batches: Iterable[Mapping[str, Floats]]) -> MemberScores:
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
