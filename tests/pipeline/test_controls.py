"""Controls are fitted on the pipeline's own trusted rows, and have honest p-values of their own."""

import numpy as np
import pytest

from madpipe.errors import MissingFileError, ShapeError, TooFewRowsError
from madpipe.evaluation.intervals import realised_rate_interval
from madpipe.pipeline.controls import CONTROLS, control_scores
from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.trusted_rows import kept_rows, rows_from
from madpipe.registry import DETECTORS, EXTRACTORS

FRESH = 300


@pytest.fixture(scope="module")
def scored(fitted, own_rows):
    x = np.concatenate([own_rows(FRESH, 8), own_rows(50, 9, anomalous=True)])
    return control_scores(Pipeline.load(fitted.pipeline), kept_rows(fitted.pipeline), x, lambda line: None)


def test_every_kind_of_control_is_there():
    kinds = {name.split("_")[0] for name in CONTROLS}
    assert kinds == {"input", "output", "student", "trusted", "activations"}
    assert {spec["detector"] for spec in CONTROLS.values()} <= {*DETECTORS, "raw"}
    assert {spec["patterns"] for spec in CONTROLS.values()} <= set(EXTRACTORS)


def test_each_control_scores_every_row(scored):
    assert set(scored) == set(CONTROLS)
    for score, p in scored.values():
        assert score.shape == p.shape == (FRESH + 50,)
        assert np.isfinite(score).all()


def test_higher_scores_have_smaller_p_values(scored):
    for score, p in scored.values():
        order = np.argsort(score)
        assert (np.diff(p[order]) <= 0).all()


def test_an_input_that_leaves_the_trusted_ones_is_seen_by_the_input_control(scored):
    score, _ = scored["input_mahalanobis"]
    assert score[FRESH:].min() > score[:FRESH].max()


def test_the_controls_p_values_keep_their_word(scored):
    low, high = realised_rate_interval(0.1, 99, FRESH, confidence=0.999)
    for name, (_, p) in scored.items():
        assert low <= np.mean(p[:FRESH] <= 0.1) <= high, name


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
