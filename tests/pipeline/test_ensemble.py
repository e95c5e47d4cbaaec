"""Folds that score together: one clean pass, member scores averaged, one frozen score that calibration rows rank."""

import numpy as np
import pytest
import torch

from madpipe.patterns.observation import JointObserver
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import TrustedRows, kept_rows


@pytest.fixture(scope="module")
def pipeline(fitted) -> Pipeline:
    return Pipeline.load(fitted.pipeline)


@pytest.fixture(scope="module")
def x(own_rows) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([own_rows(30, 1), own_rows(10, 2, anomalous=True)])).double()


def test_passes_run_together_are_the_passes_of_each_fold(pipeline, x):
    observers = [fold.observer for fold in pipeline.ensemble.folds]
    for observer, together in zip(observers, JointObserver(observers).observe(x), strict=True):
        alone = observer.observe(x)
        torch.testing.assert_close(together.clean.output, alone.clean.output)
        torch.testing.assert_close(together.explained("alive").output, alone.explained("alive").output)
        for site, value in alone.explained("alive").site_inputs.items():
            torch.testing.assert_close(together.explained("alive").site_inputs[site], value)


def test_the_target_runs_twice_a_batch_however_many_folds_there_are(pipeline, x, monkeypatch):
    calls = []
    monkeypatch.setattr(
        pipeline.method.model.target,
        "forward",
        lambda rows, run=pipeline.method.model.target.forward: calls.append(len(rows)) or run(rows),
    )
    pipeline.score(x.float().numpy())
    assert calls == [40, 40 * (2 + 1)]  # clean, then two halves' output variants and the mean of the hidden ones


def test_explained_networks_are_means_over_halves_of_folds_and_over_all(pipeline, x):
    observers = [fold.observer for fold in pipeline.ensemble.folds]
    joint = JointObserver(observers, averaged=True)
    for site, weights in joint.alive_weights.items():
        own = torch.stack([observer.alive_weights[site].matrices for observer in observers])
        expected = torch.stack([own[:2, 0].mean(0), own[2:, 0].mean(0), own[:, 1].mean(0)])
        torch.testing.assert_close(weights.matrices, expected)
    assert joint.places == [[0, 2], [0, 2], [1, 2], [1, 2]]
    seen = joint.observe(x)
    assert torch.equal(seen[0].explained("alive").output, seen[1].explained("alive").output)
    assert not torch.equal(seen[0].explained("alive").output[0], seen[2].explained("alive").output[0])


def test_folds_that_score_alike_are_scored_once_and_count_each(pipeline, x):
    ensemble = pipeline.ensemble
    seen = ensemble.observer.observe(x)
    each = [fold.member_scores(own) for fold, own in zip(ensemble.folds, seen, strict=True)]
    for name, scores in ensemble.member_scores(seen).items():
        assert np.array_equal(scores, np.stack([own[name] for own in each]))


def test_cross_fitted_folds_score_by_networks_of_their_own(cross_fitted, x):
    ensemble = Pipeline.load(cross_fitted).ensemble
    assert len({place for places in ensemble.observer.places for place in places}) == 2 * len(ensemble.folds)


def test_the_score_is_the_combiners_of_member_scores_averaged_over_folds(pipeline, x):
    ensemble = pipeline.ensemble
    scores = ensemble.scores_of(x, 16)
    assert all(own.shape == (len(ensemble.folds), 40) for own in scores.values())
    alarms = np.stack([-own.mean(0) for own in scores.values()], axis=1)
    scored = pipeline.score(x.float().numpy())
    assert scored.anomaly_score == pytest.approx(-ensemble.combiner.score_samples(alarms), rel=1e-6)


def test_detectors_of_what_only_fresh_rows_show_are_the_same_in_every_fold(pipeline):
    first, *others = (fold.members for fold in pipeline.ensemble.folds)
    for members in others:
        for one, other in zip(first, members, strict=True):
            assert np.array_equal(one.detector.median_, other.detector.median_)


def test_their_scales_are_those_of_the_networks_that_score_on_rows_each_fold_has_not_seen(fitted, pipeline):
    with np.load(fitted.folder / "trusted.npz") as stored, np.load(fitted.pipeline / "splits.npz") as splits:
        held_out = [torch.from_numpy(stored["x"][splits[f"validation_{k}"]]).double() for k in range(4)]
    scores = [
        fold.member_scores(pipeline.ensemble.observer.observe(rows)[k])
        for k, (fold, rows) in enumerate(zip(pipeline.ensemble.folds, held_out, strict=True))
    ]
    for name in pipeline.member_names:  # of one statistic each: the median of the rows scales to zero
        assert np.median(np.concatenate([own[name] for own in scores])) == pytest.approx(0, abs=1e-6)


def test_calibration_is_one_frozen_score_of_rows_no_fold_has_seen(fitted, pipeline):
    assert len(pipeline.ensemble.calibration.combined) == 1
    rows = torch.from_numpy(kept_rows(fitted.pipeline).calibration).double()
    again = pipeline.ensemble.combined(pipeline.ensemble.scores_of(rows, 7))
    assert again == pytest.approx(pipeline.ensemble.calibration.combined[0], rel=1e-9)


def test_cross_fitted_each_row_is_ranked_by_the_fold_that_has_not_seen_it(cross_fitted):
    ensemble = Pipeline.load(cross_fitted).ensemble
    with np.load(cross_fitted / "splits.npz") as splits:
        sizes = [len(splits[f"calibration_{k}"]) for k in range(len(ensemble.folds))]
    assert [len(scores) for scores in ensemble.calibration.combined] == sizes


def test_a_detector_that_is_fitted_once_gets_the_rows_that_folds_validate_on():
    rows = TrustedRows(*(np.arange(n, dtype=np.float32)[:, None] for n in (600, 200, 200)))
    alone = rows.for_one_fit()
    assert np.array_equal(alone.validation[:, 0], np.arange(0, 200, 2))  # evenly spaced, whatever the rows' order
    assert (len(alone.fit), len(alone.validation), len(alone.calibration)) == (700, 100, 200)
    assert alone.for_one_fit().fit.shape == alone.fit.shape
