"""Recalibration changes the ranks alone: the scores stay, the p-values are those of the new rows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from madpipe.evaluation.intervals import realised_rate_interval
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.recalibrate import recalibrate


@pytest.fixture(scope="module")
def recalibrated(fitted, own_rows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recalibrated")
    pipeline = Path(shutil.copytree(fitted.pipeline, folder / "pipeline"))
    np.savez(folder / "fresh.npz", x=own_rows(500, 21))
    recalibrate(pipeline, folder / "fresh.npz", report=lambda line: None)
    return pipeline


def test_scores_and_reasons_stay_as_they_were(fitted, recalibrated, own_rows):
    x = own_rows(50, 30)
    before, after = (Pipeline.load(folder).score(x) for folder in (fitted.pipeline, recalibrated))
    assert np.array_equal(before.anomaly_score, after.anomaly_score)
    assert before.top_components == after.top_components


def test_p_values_are_ranks_among_the_new_rows(recalibrated, own_rows):
    pipeline = Pipeline.load(recalibrated)
    assert pipeline.calibration_size == 500
    scored, trusted = pipeline.score(own_rows(50, 30)), pipeline.score(own_rows(500, 21))
    worse = (trusted.anomaly_score[None] >= scored.anomaly_score[:, None]).sum(1)
    assert scored.p_value == pytest.approx((1 + worse) / 501, abs=2 / 501)  # ranks are taken on rounded scores


def test_recalibrated_p_values_keep_their_word(recalibrated, own_rows):
    low, high = realised_rate_interval(0.05, 500, 2000, confidence=0.99)
    assert low <= np.mean(Pipeline.load(recalibrated).score(own_rows(2000, 31)).p_value <= 0.05) <= high


def test_members_are_ranked_among_the_new_rows_too(recalibrated, own_rows):
    for p in Pipeline.load(recalibrated).member_p_values(own_rows(20, 30)).values():
        assert np.rint(p * 501) == pytest.approx(p * 501)


def test_nothing_but_the_ranks_and_the_record_of_rows_is_written_anew(fitted, recalibrated):
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before, after = contents(fitted.pipeline), contents(recalibrated)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"pipeline.json", "ensemble/calibration.npz", "trusted/trusted.npz", "splits.npz"}
    assert {"pipeline.json", "ensemble/calibration.npz"} <= changed
    assert not list(recalibrated.parent.glob("*.partial"))


def test_the_command_says_how_many_rows_rank_now(madpipe, fitted, own_rows, tmp_path):
    pipeline = shutil.copytree(fitted.pipeline, tmp_path / "pipeline")
    np.savez(tmp_path / "fresh.npz", x=own_rows(250, 22))
    ended = madpipe("recalibrate", "--pipeline", pipeline, "--trusted", tmp_path / "fresh.npz", "--json")
    assert ended.code == 0
    document = json.loads(ended.out)
    assert (document["calibration_size_before"], document["calibration_size"]) == (99, 250)
    assert "Calibration rows: 99 before, 250 now; smallest p-value 0.00398." in ended.err
    assert "Next: madpipe score" in ended.err


def test_rows_that_were_fitted_on_are_refused(madpipe, fitted, tmp_path):
    pipeline = shutil.copytree(fitted.pipeline, tmp_path / "pipeline")
    ended = madpipe("recalibrate", "--pipeline", pipeline, "--trusted", fitted.folder / "trusted.npz")
    assert ended.code == 4
    assert "201 of 300 rows were fitted on; bring rows the pipeline has not seen" in ended.err  # 171 + 30


def test_a_pipeline_may_be_recalibrated_again_and_again(recalibrated, own_rows, tmp_path):
    pipeline = Path(shutil.copytree(recalibrated, tmp_path / "pipeline"))
    for rows in (100, 120):
        np.savez(tmp_path / "fresh.npz", x=own_rows(rows, rows))
        recalibrate(pipeline, tmp_path / "fresh.npz", report=lambda line: None)
    assert Pipeline.load(pipeline).calibration_size == 120
