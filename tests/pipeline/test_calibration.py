"""Splits are recorded and disjoint, and p-values keep their word on trusted rows that nobody has seen."""

from pathlib import Path

import numpy as np
import pytest

from madpipe.detectors.conformal import p_values
from madpipe.errors import ConfigError, TooFewRowsError
from madpipe.evaluation.intervals import realised_rate_interval
from madpipe.pipeline.fitting import make_splits
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import kept_rows

FOLDS = 4  # the default
AUTOMATIC = {"folds": FOLDS, "calibration_size": None, "validation_size": None}
FRESH = 4000


def recorded(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "splits.npz") as stored:
        return dict(stored)


# Which rows did what


def test_the_recorded_parts_are_disjoint_and_cover_all_rows(fitted):
    splits = recorded(fitted.pipeline)
    assert len(splits) == 3 * FOLDS
    for k in range(FOLDS):
        parts = [splits[f"{part}_{k}"] for part in ("fit", "validation", "calibration")]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))


def test_folds_share_their_calibration_rows_and_hold_out_each_other_row_once(fitted):
    splits = recorded(fitted.pipeline)
    shared = splits["calibration_0"]
    assert all(np.array_equal(splits[f"calibration_{k}"], shared) for k in range(FOLDS))
    held_out = np.concatenate([splits[f"validation_{k}"] for k in range(FOLDS)])
    assert np.array_equal(np.sort(np.concatenate([held_out, shared])), np.arange(300))


def test_with_200_rows_or_more_at_least_99_calibrate(fitted):
    assert len(recorded(fitted.pipeline)["calibration_0"]) == 99
    assert all(len(make_splits(rows, AUTOMATIC, 0)[0].calibration) >= 99 for rows in (200, 300, 1000))


def test_in_cross_fitting_each_row_calibrates_the_one_fold_that_did_not_see_it(cross_fitted):
    splits = recorded(cross_fitted)
    for k in range(FOLDS):
        parts = [splits[f"{part}_{k}"] for part in ("fit", "validation", "calibration")]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(60))
    calibration = np.concatenate([splits[f"calibration_{k}"] for k in range(FOLDS)])
    assert np.array_equal(np.sort(calibration), np.arange(60))


def test_the_rows_that_are_kept_are_those_that_the_record_names(fitted):
    with np.load(fitted.folder / "trusted.npz") as stored:
        rows = stored["x"]
    splits, kept = recorded(fitted.pipeline), kept_rows(fitted.pipeline)
    assert np.array_equal(kept.fit, rows[splits["fit_0"]])
    assert np.array_equal(kept.validation, rows[splits["validation_0"]])
    assert np.array_equal(kept.calibration, rows[splits["calibration_0"]])


def test_the_calibration_scores_are_the_scores_of_the_recorded_calibration_rows(fitted):
    pipeline = Pipeline.load(fitted.pipeline)
    scored = pipeline.score(kept_rows(fitted.pipeline).calibration)
    assert -scored.anomaly_score == pytest.approx(pipeline.ensemble.calibration.combined[0], rel=1e-9)


def test_another_seed_splits_otherwise():
    first, again, other = (make_splits(300, AUTOMATIC, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first.calibration, again.calibration)
    assert not np.array_equal(first.calibration, other.calibration)


def test_sizes_that_the_config_asks_for_are_taken():
    (split,) = make_splits(300, {"folds": 1, "calibration_size": 120, "validation_size": 25}, 0)
    assert (len(split.fit), len(split.validation), len(split.calibration)) == (155, 25, 120)


@pytest.mark.parametrize(("rows", "folds"), [(20, FOLDS), (23, FOLDS), (199, FOLDS), (200, FOLDS)])
def test_there_are_as_many_folds_as_asked_for(rows, folds):
    assert len(make_splits(rows, AUTOMATIC, 0)) == folds


@pytest.mark.parametrize("rows", [1, 2, 19])
def test_under_20_rows_nothing_is_fitted(rows):
    with pytest.raises(TooFewRowsError, match="at least 20 trusted rows are needed, got"):
        make_splits(rows, AUTOMATIC, 0)


def test_more_folds_than_the_rows_allow_become_as_many_as_they_do():
    assert len(make_splits(24, AUTOMATIC | {"folds": 50}, 0)) == 6


def test_a_calibration_part_of_no_rows_is_refused():
    with pytest.raises(ConfigError, match="at least one row"):
        make_splits(300, AUTOMATIC | {"calibration_size": 0}, 0)


# What p-values promise


@pytest.fixture(scope="module")
def fresh(own_rows) -> np.ndarray:
    return own_rows(FRESH, 77)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.5])
def test_on_fresh_trusted_rows_the_flagged_share_is_what_its_law_allows(fitted, fresh, alpha):
    pipeline = Pipeline.load(fitted.pipeline)
    low, high = realised_rate_interval(alpha, pipeline.calibration_size, FRESH, confidence=0.99)
    assert low <= np.mean(pipeline.score(fresh).p_value <= alpha) <= high


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_averaged_over_calibration_rows_the_flagged_share_is_at_most_alpha(fitted, fresh, alpha):
    # The score is frozen, so fresh rows can play both parts: 2000 draws of 99 rows that rank one other row.
    scores = -Pipeline.load(fitted.pipeline).score(fresh).anomaly_score
    draws = np.random.default_rng(0)
    ranks = [draws.choice(scores, 100, replace=False) for _ in range(2000)]
    flagged = np.mean([p_values(row[:1], row[1:])[0] <= alpha for row in ranks])
    assert flagged == pytest.approx(alpha, abs=3 * np.sqrt(alpha * (1 - alpha) / 2000))


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_cross_fitted_the_flagged_share_stays_within_twice_alpha(cross_fitted, fresh, alpha):
    # The bound of cross-conformal p-values is 2 alpha + (1 - alpha) (K - 1) / (N + K) or so; K = 4, N = 60.
    flagged = np.mean(Pipeline.load(cross_fitted).score(fresh).p_value <= alpha)
    assert flagged <= 2 * alpha + 3 / 64


def test_each_members_own_p_values_keep_their_word_too(fitted, fresh):
    pipeline = Pipeline.load(fitted.pipeline)
    low, high = realised_rate_interval(0.1, pipeline.calibration_size, FRESH, confidence=0.99)
    for name, p in pipeline.member_p_values(fresh).items():
        assert low <= np.mean(p <= 0.1) <= high, name
