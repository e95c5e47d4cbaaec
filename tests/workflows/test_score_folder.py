"""Scoring on a schedule: every file once, whatever is stopped in the middle, and only what is new."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import madpipe
from madpipe.errors import MissingFileError, UsageError
from madpipe.pipeline.drift import DriftWatch, drift_watch
from madpipe.pipeline.folder import folder_digest
from madpipe.pipeline.locking import locked
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.recalibrate import recalibrate
from madpipe.workflows.score import score
from madpipe.workflows.score_folder import score_folder

NAMES = ["a.npy", "b.npy", "c.npz", "d.csv"]
DAY = 86_400


@pytest.fixture
def incoming(own_rows, tmp_path) -> Path:
    """Four files, a day between each and the next, d.csv the newest; and one that is no input."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    for day, name in enumerate(NAMES):
        write(folder / name, own_rows(30 + day, 20 + day), day)
    (folder / "readme.txt").write_text("no input")
    return folder


def write(path: Path, rows: np.ndarray, day: int) -> None:
    match path.suffix:
        case ".npy":
            np.save(path, rows)
        case ".npz":
            np.savez(path, x=rows)
        case ".csv":
            pd.DataFrame(rows).add_prefix("x_").to_csv(path, index=False)
    os.utime(path, (1_700_000_000 + day * DAY,) * 2)


@pytest.fixture
def run(fitted, incoming, tmp_path):
    def score_it(*inputs: Path, pipeline: Path = fitted.pipeline, **options):
        options = {"output": tmp_path / "scores", "report": lambda line: None} | options
        return score_folder(str(pipeline), inputs or [incoming], **options)

    return score_it


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.name: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def test_one_file_for_every_input_file_oldest_first(run, fitted, incoming, tmp_path):
    result = run()
    assert result.scored == NAMES
    place = tmp_path / "scores" / folder_digest(fitted.pipeline)[:12]
    assert result.output == str(place)
    assert sorted(path.name for path in place.iterdir()) == [f"{name}.parquet" for name in NAMES]
    assert result.rows == 30 + 31 + 32 + 33
    score(str(fitted.pipeline), [incoming / "c.npz"], output=str(tmp_path / "c.parquet"), report=lambda line: None)
    pd.testing.assert_frame_equal(tables(place)["c.npz.parquet"], pd.read_parquet(tmp_path / "c.parquet"))


def test_a_rerun_skips_what_is_done(run):
    run()
    again = run()
    assert (again.scored, again.skipped, again.rows) == ([], NAMES, 0)


def test_changed_content_and_another_rule_are_scored_again(run, incoming, own_rows):
    run()
    write(incoming / "b.npy", own_rows(50, 99), 1)  # the time of the last change tells nothing
    assert run().scored == ["b.npy"]
    assert run(alpha=0.05).scored == NAMES
    assert run(alpha=0.05).scored == []


def test_what_was_damaged_is_scored_again(run):
    place = Path(run(suffix=".csv").output)
    (place / "a.npy.csv").write_text("cut short")
    (place / "c.npz.csv.meta.json").unlink()
    (place / "b.npy.csv").unlink()
    assert run(suffix=".csv").scored == ["a.npy", "b.npy", "c.npz"]


def test_another_pipeline_scores_into_another_folder(run, fitted, own_rows, tmp_path):
    import shutil

    first = run()
    other = Path(shutil.copytree(fitted.pipeline, tmp_path / "other"))
    np.save(tmp_path / "more.npy", own_rows(40, 31))
    recalibrate(other, tmp_path / "more.npy", report=lambda line: None)
    before = tables(Path(first.output))
    second = run(pipeline=other)
    assert second.scored == NAMES
    assert second.output != first.output
    after = tables(Path(first.output))
    assert all(frame.equals(after[name]) for name, frame in before.items())
    assert run(pipeline=other, since="last").skipped == ["d.csv"]


def test_since_takes_what_changed_then_or_later(run, tmp_path):
    since = int(1_700_000_000 + 2 * DAY) * 10**9  # c.npz's own time
    assert run(since=since).scored == ["c.npz", "d.csv"]


def test_since_last_takes_what_came_after_the_newest_that_was_scored(run, incoming, own_rows):
    assert run(since="last").scored == NAMES  # nothing was scored before
    write(incoming / "late.npy", own_rows(10, 40), 1)  # older than the newest scored: left to a run without --since
    write(incoming / "new.npy", own_rows(10, 41), 9)
    write(incoming / "same.npy", own_rows(10, 42), 3)  # of the very time of the newest
    last = run(since="last")
    assert (last.scored, last.skipped) == (["same.npy", "new.npy"], ["d.csv"])
    assert run().scored == ["late.npy"]


def test_a_file_that_cannot_be_scored_stops_no_other_and_is_not_lost(run, incoming, own_rows, tmp_path):
    (incoming / "b.npy").write_bytes(b"broken")
    os.utime(incoming / "b.npy", (1_700_000_000 + DAY,) * 2)
    first = run()
    assert first.scored == ["a.npy", "c.npz", "d.csv"]
    assert list(first.failed) == ["b.npy"]
    mark = tmp_path / "scores" / "b.npy.failed"
    assert "truncated" in mark.read_text()
    assert list(run(since="last").failed) == ["b.npy"]
    write(incoming / "b.npy", own_rows(10, 43), 1)
    assert run(since="last").scored == ["b.npy"]
    assert not mark.exists()


def test_the_mark_of_a_file_that_was_taken_away_goes_too(run, incoming, tmp_path):
    (incoming / "b.npy").write_bytes(b"broken")
    run()
    (incoming / "b.npy").unlink()
    assert run().failed == {}
    assert not (tmp_path / "scores" / "b.npy.failed").exists()


def test_two_files_of_one_name_are_refused(run, incoming, own_rows, tmp_path):
    write(tmp_path / "a.npy", own_rows(3, 1), 0)
    with pytest.raises(UsageError, match="have one name"):
        run(incoming, tmp_path / "a.npy")
    with pytest.raises(MissingFileError, match="no file or folder"):
        run(tmp_path / "nowhere")


def test_two_at_once_are_refused(run, tmp_path):
    (tmp_path / "scores").mkdir()
    with (
        locked(tmp_path / "scores" / ".lock", "another"),
        pytest.raises(MissingFileError, match="another process is scoring into"),
    ):
        run()


def test_an_empty_folder_is_no_fault(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").scored == []


def test_the_command_ends_with_4_where_a_file_failed_and_says_so(madpipe, fitted, incoming, tmp_path):
    (incoming / "b.npy").write_bytes(b"broken")
    words = ("score", "--pipeline", fitted.pipeline, incoming, "-o", f"{tmp_path / 'scores'}/", "--format", "csv")
    ended = madpipe(*words)
    assert ended.code == 4
    assert "b.npy could not be scored: " in ended.err
    assert "1 file could not be scored. Next: mend or move" in ended.err
    (incoming / "b.npy").unlink()
    since = datetime.fromtimestamp(1_700_000_000 + 2.5 * DAY, UTC).isoformat()
    ended = madpipe(*words, "--since", since)
    assert ended.code == 0
    assert "Scored 0 inputs of 0 files" in ended.err
    assert "1 file scored before skipped" in ended.err


def test_the_watch_counts_every_file_once_where_a_table_was_lost_after_it_was_counted(run, tmp_path):
    """What a stop between the two renames leaves: counted in the watch, and no score file."""
    first = run(monitor=tmp_path / "drift.npz")
    (Path(first.output) / "b.npy.parquet").unlink()
    second = run(monitor=tmp_path / "drift.npz")
    assert (second.scored, second.drift.skipped) == (["b.npy"], ("b.npy",))
    assert (second.drift.seen, second.drift.log10_evidence) == (first.drift.seen, first.drift.log10_evidence)


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_neither_repeats_nor_loses_a_file(fitted, own_rows, tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    names = [f"{i}.npy" for i in range(4)]
    for i, name in enumerate(names):
        write(folder / name, own_rows(1000, 50 + i), i)
    words = ["score", "--pipeline", fitted.pipeline, "incoming", "-o", "scores/", "--batch-size", "8"]
    words += ["--monitor", "drift.npz", "--since", "last"]
    environment = os.environ | {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    place = tmp_path / "scores" / folder_digest(fitted.pipeline)[:12]
    written: dict[str, int] = {}
    for kill in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "madpipe", *map(str, words)],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and len(list(place.glob("*.parquet"))) <= kill:
            time.sleep(0.01)
        time.sleep(0.07 * kill)  # in the middle of the next file
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = {path.name: path.stat().st_mtime_ns for path in place.glob("*.parquet")}
        assert written.items() <= found.items()  # none was written twice
        assert len(written) < len(found) < len(names)
        written = found
    done = subprocess.run(
        [sys.executable, "-m", "madpipe", *map(str, words)], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert written.items() <= {path.name: path.stat().st_mtime_ns for path in place.iterdir()}.items()
    assert sorted(path.name for path in place.iterdir()) == [f"{name}.parquet" for name in names]
    in_peace = score_folder(
        str(fitted.pipeline),
        [folder],
        output=tmp_path / "other",
        batch_size=8,
        monitor=tmp_path / "other.npz",
        report=lambda line: None,
    )
    for name, frame in tables(Path(in_peace.output)).items():
        pd.testing.assert_frame_equal(frame, tables(place)[name], check_exact=True)
    counted = [watch_of(tmp_path / name, fitted.pipeline) for name in ("drift.npz", "other.npz")]
    assert counted[0].martingale.seen == counted[1].martingale.seen == 4000
    assert counted[0].latest == pytest.approx(counted[1].latest)


def watch_of(path: Path, pipeline: Path) -> DriftWatch:
    with drift_watch(path, None, pipeline, Pipeline.load(pipeline)) as watch:
        return watch
