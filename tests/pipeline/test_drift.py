"""The watch over a stream: one stream over many runs, each file once, one pipeline, whole or not at all."""

import numpy as np
import pytest

from madpipe.errors import DamagedFileError, MissingFileError, TooFewRowsError, UsageError
from madpipe.pipeline.drift import MOST_POINTS, History, drift_watch
from madpipe.pipeline.locking import locked
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.score import score


@pytest.fixture(scope="module")
def pipeline(fitted) -> Pipeline:
    return Pipeline.load(fitted.pipeline)


@pytest.fixture
def watching(fitted, pipeline, tmp_path):
    def watch(name: str = "drift.npz", level: float | None = None):
        return drift_watch(tmp_path / name, level, fitted.pipeline, pipeline)

    return watch


@pytest.fixture
def stream(tmp_path, own_rows):
    """Four input files of 60 rows, the last of them anomalous."""
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", own_rows(60, 70 + i, anomalous=i == 3))
    return [tmp_path / f"{i}.npy" for i in range(4)]


def counted(pipeline, watch, paths, size=17):
    for path in paths:
        count = watch.begin(path)
        scores = pipeline.score(np.load(path)).anomaly_score
        for start in range(0, len(scores), size):
            count(scores[start : start + size])
    watch.save()
    return watch.report()


def test_runs_go_on_where_the_one_before_ended(pipeline, watching, stream):
    with watching("one.npz") as watch:
        at_once = counted(pipeline, watch, stream)
    for path in stream:
        with watching() as watch:
            one_by_one = counted(pipeline, watch, [path], size=7)
    assert one_by_one.seen == at_once.seen == 240
    assert one_by_one.alarmed_at == at_once.alarmed_at
    assert 180 < at_once.alarmed_at < 240
    np.testing.assert_allclose(one_by_one.history.log10_evidence, at_once.history.log10_evidence, atol=1e-9)


def test_a_file_is_counted_once_whatever_its_name(pipeline, watching, stream, tmp_path):
    with watching() as watch:
        first = counted(pipeline, watch, stream[:2])
    copy = tmp_path / "copy.npy"
    copy.write_bytes(stream[0].read_bytes())
    with watching() as watch:
        second = counted(pipeline, watch, [copy, stream[1]])
    assert second.skipped == ("copy.npy", "1.npy")
    assert (second.seen, second.log10_evidence) == (first.seen, first.log10_evidence) == (120, second.log10_evidence)


def test_what_was_not_saved_was_not_counted(pipeline, watching, stream):
    with watching() as watch:
        watch.begin(stream[0])(pipeline.score(np.load(stream[0])).anomaly_score)
    with watching() as watch:
        assert watch.report().seen == 0


def test_an_alarm_stands(pipeline, watching, stream):
    with watching() as watch:
        alarm = counted(pipeline, watch, [stream[3]])
    with watching() as watch:
        later = counted(pipeline, watch, stream[:3])
    assert later.alarmed_at == alarm.alarmed_at is not None


def test_the_state_of_another_pipeline_is_refused(pipeline, watching, stream, fitted, cross_fitted, tmp_path):
    with watching() as watch:
        counted(pipeline, watch, stream[:1])
    with (
        pytest.raises(UsageError, match="watches another pipeline"),
        drift_watch(tmp_path / "drift.npz", None, cross_fitted, pipeline),
    ):
        pass


def test_another_level_is_refused_and_the_one_it_has_kept(pipeline, watching, stream):
    with watching(level=0.2) as watch:
        counted(pipeline, watch, stream[:1])
    with watching() as watch:
        assert watch.report().level == 0.2
    with pytest.raises(UsageError, match="was begun at level 0.2"), watching(level=0.01):
        pass


def test_a_cross_fitted_pipeline_is_refused(cross_fitted, tmp_path):
    with (
        pytest.raises(TooFewRowsError, match="200 rows to use --monitor"),
        drift_watch(tmp_path / "drift.npz", None, cross_fitted, Pipeline.load(cross_fitted)),
    ):
        pass


def test_names_and_folders_that_cannot_be(watching, tmp_path):
    with pytest.raises(UsageError, match="must end in .npz"), watching("drift.json"):
        pass
    with pytest.raises(MissingFileError, match="no folder"), watching("nowhere/drift.npz"):
        pass
    with (
        locked(tmp_path / "drift.npz.lock", ""),
        pytest.raises(MissingFileError, match="another process is using"),
        watching(),
    ):
        pass


def saved(pipeline, watching, stream, tmp_path):
    with watching() as watch:
        counted(pipeline, watch, stream[:1])
    with np.load(tmp_path / "drift.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("facts", np.frombuffer(b"{", np.uint8)),
        ("facts", np.frombuffer(b'{"format": 1}', np.uint8)),
        ("log_capital", np.zeros(3)),
        ("counts", np.ones(5)),
        ("history_at", np.arange(3)),
    ],
)
def test_a_damaged_state_is_named(pipeline, watching, stream, tmp_path, name, value):
    arrays = saved(pipeline, watching, stream, tmp_path)
    np.savez(tmp_path / "drift.npz", **arrays | {name: value})
    with pytest.raises(DamagedFileError, match="drift.npz is no watch"), watching():
        pass


def test_a_truncated_state_is_named(pipeline, watching, stream, tmp_path):
    saved(pipeline, watching, stream, tmp_path)
    path = tmp_path / "drift.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match="truncated"), watching():
        pass


@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_a_long_history_is_thinned_evenly(batch):
    history = History()
    for first in range(1, 20_001, batch):
        history.add(first, np.arange(first, min(first + batch, 20_001), dtype=float))
    assert MOST_POINTS / 2 < len(history.at) <= MOST_POINTS
    assert history.at == list(range(0, 20_001, 16))  # 20,000 / 16 = 1,250 points; every 8th would be 2,500
    assert history.log10_evidence == history.at


def test_scoring_with_a_watch_is_scoring(fitted, stream, tmp_path):
    said: list[str] = []
    outputs = [tmp_path / "plain.csv", tmp_path / "watched.csv"]
    score(str(fitted.pipeline), stream, output=str(outputs[0]), report=said.append)
    result = score(str(fitted.pipeline), stream, output=str(outputs[1]), monitor=tmp_path / "m.npz", report=said.append)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert result.drift is not None
    assert result.drift.alarmed_at is not None
    assert said == [said[0]]
    assert said[0].startswith(f"Drift: alarm at input {result.drift.alarmed_at} ")
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


def test_a_file_that_fails_half_way_leaves_no_trace(pipeline, watching, stream):
    with watching("clean.npz") as watch:
        clean = counted(pipeline, watch, stream[:2])
    with watching() as watch:
        with pytest.raises(ArithmeticError), watch.whole_or_not():
            watch.begin(stream[2])(pipeline.score(np.load(stream[2])).anomaly_score)
            raise ArithmeticError
        assert watch.martingale.seen == 0
        after = counted(pipeline, watch, stream[:2])
    assert (after.seen, after.log10_evidence) == (clean.seen, pytest.approx(clean.log10_evidence, abs=1e-9))


def test_another_array_of_the_same_file_is_counted(fitted, pipeline, tmp_path, stream):
    for key in ("morning", "evening", "evening"):
        with drift_watch(tmp_path / "drift.npz", None, fitted.pipeline, pipeline, key) as watch:
            last = counted(pipeline, watch, stream[:1])
    assert (last.seen, last.skipped) == (120, ("0.npy",))
