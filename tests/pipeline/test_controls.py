"""Controls are fitted on the pipeline's own trusted rows, and have honest p-values of their own."""

import numpy as np
import pytest

from madpipe.errors import MissingFileError, ShapeError, TooFewRowsError
from madpipe.evaluation.intervals import realised_rate_interval
from madpipe.patterns.strip import Strip
from madpipe.pipeline import controls
from madpipe.pipeline.controls import CONTROLS, RAW, UNION, control_scores
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import kept_rows, rows_from
from madpipe.registry import DETECTORS, EXTRACTORS

FRESH = 300
OFFLINE = ("que", "spectral_signature")


@pytest.fixture(scope="module")
def scored(fitted, own_rows):
    x = np.concatenate([own_rows(FRESH, 8), own_rows(50, 9, anomalous=True)])
    pipeline, rows = Pipeline.load(fitted.pipeline), kept_rows(fitted.pipeline)
    untrusted = np.concatenate([own_rows(60, 6), own_rows(20, 7, anomalous=True)])
    return control_scores(pipeline, rows, x, lambda line: None, untrusted)


def test_every_kind_of_control_is_there():
    kinds = {name.split("_")[0] for name in CONTROLS}
    assert kinds >= {"input", "output", "student", "trusted", "activations", "ted", "beatrix", "strip", "dictionary"}
    assert {control.detector for control in CONTROLS.values()} <= {*DETECTORS, RAW}
    assert {control.patterns for control in CONTROLS.values()} <= set(EXTRACTORS)


def test_offline_controls_are_those_of_offline_detectors():
    assert {name for name, control in CONTROLS.items() if control.offline} == set(OFFLINE)


def test_each_control_that_has_its_features_scores_every_row(scored):
    assert set(scored) == set(CONTROLS) - {"output_magnitude"} | {UNION}  # only a regression has a magnitude
    for score, p, _ in scored.values():
        assert score.shape == p.shape == (FRESH + 50,)
        assert np.isfinite(score).all()


def test_higher_scores_have_smaller_p_values(scored):
    for name, (score, p, _) in scored.items():
        order = np.argsort(score)
        assert (np.diff(p[order]) <= 0).all() or name == UNION  # calibration rows are ranked anew beside each row


def test_an_input_that_leaves_the_trusted_ones_is_seen_by_the_input_control(scored):
    score = scored["input_mahalanobis"].anomaly_score
    assert score[FRESH:].min() > score[:FRESH].max()


def test_what_one_control_sees_the_union_sees(scored):
    score, p, _ = scored[UNION]
    assert score[FRESH:].min() > np.quantile(score[:FRESH], 0.9)
    assert (p[FRESH:] <= 0.1).all()


def test_the_controls_p_values_keep_their_word(scored):
    low, high = realised_rate_interval(0.1, 99, FRESH, confidence=0.999)
    for name, (_, p, _) in scored.items():
        rate = np.mean(p[:FRESH] <= 0.1)
        assert rate <= high, name
        assert rate >= low or len(np.unique(p[:FRESH])) < FRESH / 10, name  # a score of many ties is cautious


def test_each_control_says_how_many_forward_passes_it_costs(scored):
    assert {name: scored[name].passes for name in ("input_knn", "ted", "student_kl", "strip")} == {
        "input_knn": 0,
        "ted": 1,
        "student_kl": 2,
        "strip": 33,
    }
    assert scored[UNION].passes == 1 + 1 + 1 + 32  # one clean pass, a student's, a copy's, and STRIP's blends


def test_without_untrusted_rows_the_offline_controls_are_left_out_aloud(fitted, own_rows, monkeypatch):
    monkeypatch.setattr(controls, "CONTROLS", {name: CONTROLS[name] for name in ("input_knn", *OFFLINE)})
    lines: list[str] = []
    found = control_scores(Pipeline.load(fitted.pipeline), kept_rows(fitted.pipeline), own_rows(9, 8), lines.append)
    assert set(found) == {"input_knn", UNION}
    assert lines[0] == (
        "Left out que, spectral_signature: they learn from unlabelled untrusted rows, and there are none."
    )


def test_the_union_is_of_the_online_controls_alone(scored, fitted, own_rows, monkeypatch):
    monkeypatch.setattr(controls, "CONTROLS", {n: c for n, c in CONTROLS.items() if n in ("ted", "input_knn", "que")})
    rows, x, pipeline = kept_rows(fitted.pipeline), own_rows(9, 8), Pipeline.load(fitted.pipeline)
    both = [control_scores(pipeline, rows, x, lambda line: None, untrusted) for untrusted in (None, own_rows(40, 7))]
    assert set(both[1]) - set(both[0]) == {"que"}
    np.testing.assert_array_equal(both[0][UNION].p_value, both[1][UNION].p_value)


def test_a_control_that_cannot_read_the_target_is_left_out_aloud(fitted, own_rows, monkeypatch):
    monkeypatch.setattr(controls, "CONTROLS", {name: CONTROLS[name] for name in ("input_knn", "strip")})
    monkeypatch.setattr(Strip, "refusal", lambda self: "it reads token ids")
    lines: list[str] = []
    found = control_scores(Pipeline.load(fitted.pipeline), kept_rows(fitted.pipeline), own_rows(9, 8), lines.append)
    assert set(found) == {"input_knn", UNION}
    assert "Left out strip: it reads token ids." in lines


def test_a_folder_that_keeps_no_rows_says_what_to_do(tmp_path):
    with pytest.raises(MissingFileError, match="keeps no trusted rows .*give --trusted FILE"):
        kept_rows(tmp_path)


def test_rows_of_a_file_are_split_afresh(fitted):
    rows = rows_from(fitted.folder / "trusted.npz", "x", (6,), seed=0)
    assert [len(part) for part in (rows.fit, rows.validation, rows.calibration)] == [171, 30, 99]


def test_too_few_rows_in_a_file_or_rows_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "few.npz", x=np.zeros((50, 6)))
    with pytest.raises(TooFewRowsError):
        rows_from(tmp_path / "few.npz", "x", (6,), seed=0)
    with pytest.raises(ShapeError):
        rows_from(tmp_path / "few.npz", "x", (7,), seed=0)
