"""Conformal test martingale: evidence, gathered input by input, that scores no longer come from where they came from.

Each new score is ranked among the calibration scores and the stream before it, ties broken at random: while all of them
are exchangeable these ranks are independent and uniform (Vovk, Gammerman, Shafer 2005, theorem 8.2). Ranks among the
fixed calibration scores alone are not. Bets on the ranks multiply; what a mixture of bets has won is a martingale that
begins at 1, so the chance that it *ever* reaches 1 / level is at most level (Ville). Where it does, the scores have
drifted, up or down.

Bets: f(p) = 1 - w + w k p^(k - 1) for a share w of inputs with small ranks (power betting with k, Vovk et al. 2003, of
which w is put at risk), the same of 1 - p, over a grid of w and k in powers of a half. Each bet may begin at any input
s, with prior 1 / (s (s + 1)), so that a long quiet time costs 2 ln(s) nats and no more (a mixture over change points;
compare Shin, Ramdas and Rinaldo 2024, who sum over them and so bound the rate of false alarms, not their chance).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpipe.detectors.conformal import round_significant
from madpipe.errors import ConfigError, NonFiniteError, TooFewRowsError

Floats = NDArray[np.float64]
SHARES = (1.0, 1 / 4, 1 / 16, 1 / 64)  # w
POWERS = (1 / 2, 1 / 4, 1 / 8)  # k
BETS = 2 * len(SHARES) * len(POWERS)  # for each direction
CHUNK = 256  # scores compared with one another at a time
SMALLEST_RANK = 2.0**-53  # smaller ones, 0 too, win no more than this: no bet gains by it on average


def log_bets(p: ArrayLike) -> Floats:
    """ln f(p) of every bet: ranks [..., T] in [0, 1] -> [..., T, BETS]; the mean of f over uniform ranks is 1.

    The first half bets on small ranks (scores more anomalous than before), the second on large ones.
    """
    ranks = np.asarray(p, dtype=np.float64)
    w, k = (grid.ravel() for grid in np.meshgrid(SHARES, POWERS, indexing="ij"))
    sides = [
        np.log(1 - w + w * k * np.maximum(side, SMALLEST_RANK)[..., None] ** (k - 1)) for side in (ranks, 1 - ranks)
    ]
    return np.concatenate(sides, axis=-1)


def no_capital() -> Floats:
    """ln of what the bets hold before the first input: all of it is in reserve."""
    return np.full(BETS, -np.inf)


def wager(log_capital: Floats, seen: int, bets: Floats) -> tuple[Floats, Floats]:
    """(ln of the martingale after each of T inputs [..., T], ln of each bet's capital after the last [..., BETS]).

    log_capital: [..., BETS] after `seen` inputs; bets: [..., T, BETS] from `log_bets`. Before input s the reserve 1 / s
    puts 1 / (s (s + 1)) into the bets and keeps 1 / (s + 1).
    """
    s = np.arange(seen + 1, seen + 1 + bets.shape[-2], dtype=np.float64)
    won = np.cumsum(bets, axis=-2)
    stakes = -np.log(s * (s + 1) * BETS)[:, None] - (won - bets)
    begun = np.concatenate([log_capital[..., None, :], stakes], axis=-2)
    capital = won + np.logaddexp.accumulate(begun, axis=-2)[..., 1:, :]
    wealth = np.logaddexp(np.logaddexp.reduce(capital, axis=-1), -np.log(s + 1))
    return wealth, capital[..., -1, :] if len(s) else log_capital


class SequentialRanks:
    """Ranks of a stream among `calibration` scores and the stream so far; low scores, the anomalous, get small ranks.

    Scores are rounded to 6 significant digits, as for p-values, and held as distinct values with their counts.
    """

    def __init__(self, calibration: ArrayLike, seed: int):
        scores = _checked(calibration)
        if not len(scores):
            raise TooFewRowsError("a stream is ranked among calibration scores, got none")
        self.values, self.counts = np.unique(scores, return_counts=True)
        self.random = np.random.default_rng(seed)

    def update(self, scores: ArrayLike) -> Floats:
        """(#{earlier < s} + u #{earlier or this = s}) / #{earlier or this} for each s in order, u uniform in (0, 1]."""
        checked = _checked(scores)
        parts = [self._update(checked[start : start + CHUNK]) for start in range(0, len(checked), CHUNK)]
        return np.concatenate([np.empty(0), *parts])

    def _update(self, scores: Floats) -> Floats:
        below, at_or_below = (self._held(scores, side) for side in ("left", "right"))
        earlier = np.tri(len(scores), k=-1, dtype=bool)
        smaller = below + np.sum(earlier & (scores[None] < scores[:, None]), axis=1)
        equal = at_or_below - below + np.sum(earlier & (scores[None] == scores[:, None]), axis=1) + 1
        total = self.counts.sum() + np.arange(1, len(scores) + 1)
        self._add(scores)
        return (smaller + (1 - self.random.random(len(scores))) * equal) / total

    def _held(self, scores: Floats, side: str) -> NDArray[np.int64]:
        at = np.searchsorted(self.values, scores, side="left" if side == "left" else "right")
        return np.concatenate([[0], np.cumsum(self.counts)])[at]

    def _add(self, scores: Floats) -> None:
        values, where = np.unique(np.concatenate([self.values, scores]), return_inverse=True)
        counts = np.concatenate([self.counts, np.ones(len(scores), dtype=np.int64)])
        self.values, self.counts = values, np.bincount(where, counts).astype(np.int64)


class DriftMartingale:
    """The martingale of one stream. `update` gives ln of it after each input; the same whatever the batches are."""

    def __init__(self, calibration: ArrayLike, seed: int = 0):
        self.ranks = SequentialRanks(calibration, seed)
        self.log_capital = no_capital()
        self.seen = 0

    def update(self, score_samples: ArrayLike) -> Floats:
        wealth, self.log_capital = wager(self.log_capital, self.seen, log_bets(self.ranks.update(score_samples)))
        self.seen += len(wealth)
        return wealth


def log_threshold(level: float) -> float:
    """ln(1 / level): where the martingale raises an alarm."""
    if not 0 < level < 1:
        raise ConfigError(f"the level of an alarm is a probability between 0 and 1, got {level}")
    return float(-np.log(level))


def _checked(scores: ArrayLike) -> Floats:
    values = round_significant(scores).ravel()
    if np.isnan(values).any():
        raise NonFiniteError("a score is NaN and has no rank; look for overflow in the detector that gave it")
    return values
