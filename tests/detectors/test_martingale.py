"""The martingale: fair while scores are exchangeable, rich soon after they are not, the same in any batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from madpipe.detectors.martingale import (
    BETS,
    DriftMartingale,
    SequentialRanks,
    log_bets,
    log_threshold,
    no_capital,
    wager,
)
from madpipe.errors import ConfigError, NonFiniteError, TooFewRowsError


def draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def test_no_bet_on_small_ranks_wins_on_average():
    t = np.linspace(0, 60, 100_001)  # p = e^-t: the integral of f(p) e^-t over t
    mean = np.trapezoid(np.exp(log_bets(np.exp(-t)) - t[:, None]), t, axis=0)[: BETS // 2]
    assert (mean <= 1 + 1e-6).all()
    # Ranks below 2^-53 win no more than that one: for k = 1/8 that costs (7/8) 2^(-53/8) = 0.009 of the mean.
    assert (mean >= 1 - 0.0091).all()


def test_bets_on_large_ranks_mirror_those_on_small_ones():
    p = np.geomspace(1e-9, 0.5)
    np.testing.assert_allclose(log_bets(1 - p)[:, BETS // 2 :], log_bets(p)[:, : BETS // 2], rtol=1e-6, atol=1e-6)


def test_the_martingale_keeps_its_mean_whatever_was_seen():
    """E[M_t | past] = M_{t-1}: one step from made-up capital, with all bets replaced by their mean, 1."""
    capital = np.log(np.random.default_rng(1).random(BETS))
    for seen in (0, 1, 10, 10**6):
        before = np.exp(capital).sum() + 1 / (seen + 1)
        after, _ = wager(capital, seen, np.zeros((1, BETS)))
        assert np.exp(after[0]) == pytest.approx(before, rel=1e-12)


def test_it_begins_at_one():
    wealth, _ = wager(no_capital(), 0, np.zeros((5, BETS)))
    np.testing.assert_allclose(wealth, 0, atol=1e-12)


def test_ranks_in_a_case_by_hand():
    ranks = SequentialRanks([1.0, 2.0, 2.0, 3.0], seed=0)
    u = 1 - np.random.default_rng(0).random(3)
    # 2: one below, three equal with itself, of 5. 0: none below, itself, of 6. 2: two below (1, 0), four equal, of 7.
    np.testing.assert_allclose(
        ranks.update([2.0, 0.0, 2.0]), [(1 + 3 * u[0]) / 5, u[1] / 6, (2 + 4 * u[2]) / 7], rtol=1e-12
    )


@given(cuts=st.lists(st.integers(0, 700), max_size=6))
def test_batches_make_no_difference(cuts):
    stream = np.round(draws(700), 1)  # with many ties
    whole = DriftMartingale(draws(50, 1)).update(stream)
    cut = DriftMartingale(draws(50, 1))
    parts = [cut.update(part) for part in np.split(stream, sorted(cuts))]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-9)
    assert cut.seen == 700


def test_ranks_of_exchangeable_scores_are_uniform_with_ties_and_without():
    for scores in (draws(4000), np.round(draws(4000))):
        ranks = SequentialRanks(scores[:100], seed=3).update(scores[100:])
        assert kstest(ranks, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]) < 0.05


def test_false_alarms_stay_below_the_level():
    """At level 20 %, so that 300 streams tell: at most 60 expected, 81 is three standard deviations more."""
    alarms = 0
    for seed in range(300):
        scores = draws(600, seed)
        alarms += DriftMartingale(scores[:100], seed).update(scores[100:]).max() >= log_threshold(0.2)
    assert alarms <= 81


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_a_shift_either_way_is_noticed_after_a_long_quiet_time(shift):
    monitor = DriftMartingale(draws(500))
    assert monitor.update(draws(5000, 1)).max() < log_threshold(0.01)
    assert monitor.update(draws(1500, 2) + shift).max() > log_threshold(0.01)


def test_a_few_strange_inputs_among_many_are_noticed():
    stream = draws(1000, 1)
    stream[::20] = -10 - draws(50, 2)  # 5 %
    assert DriftMartingale(draws(500)).update(stream).max() > log_threshold(0.01)


def test_overwhelming_evidence_stays_a_number():
    wealth = DriftMartingale(draws(500)).update(-1e3 + draws(20_000, 1))
    assert np.isfinite(wealth).all()


def test_an_empty_batch_changes_nothing():
    monitor = DriftMartingale(draws(20))
    assert len(monitor.update([])) == 0
    assert monitor.seen == 0


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(TooFewRowsError):
        SequentialRanks([], 0)
    with pytest.raises(NonFiniteError):
        SequentialRanks([1.0], 0).update([np.nan])
    with pytest.raises(ConfigError):
        log_threshold(1.0)
