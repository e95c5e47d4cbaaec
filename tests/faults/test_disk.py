"""A disk that is full or may not be written to: one line, nothing half written, and the same command goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import ending, final


@pytest.mark.soak
def test_a_fit_on_a_full_disk_says_so_and_goes_on_once_there_is_space(place, reference, tried, tmpfs):
    with tmpfs("size=200k") as disk:
        told = ending(place.fit(output=disk / "result"))
        tried("disk full")
        assert told.code == 1
        assert told.last.startswith(f"madpipe: No space left on device: {disk / 'result.partial'}"), told.talk
        assert "Traceback" not in told.talk
        assert [path.name for path in disk.iterdir()] == ["result.partial"]
        place.refuse_corrupt_store()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = ending(place.fit(output=disk / "result"))
        assert again.code == 0, again.talk
        assert final(disk / "result") == reference.final
        assert [path.name for path in disk.iterdir()] == ["result"]
        assert place.runs() == [("decomposition", "FINISHED"), ("detector", "FINISHED")]


def test_scores_on_a_full_disk_are_absent_and_there_once_there_is_space(fitted, process, tried, tmpfs):
    words = ("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "-o")
    with tmpfs("size=4k") as disk:
        for suffix in (".csv", ".parquet"):
            told = process(*words, disk / f"scores{suffix}", cwd=disk)
            tried("disk full")
            assert told.code == 1
            assert "No space left on device" in told.err.rstrip().splitlines()[-1], told.err
            assert "Traceback" not in told.err
            assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert process(*words, disk / "scores.csv", cwd=disk).code == 0
        assert [path.name for path in disk.iterdir()] == ["scores.csv"]


def test_a_read_only_output_folder_is_refused_before_anything_is_trained(place, process, tried, tmpfs):
    with tmpfs("size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        told = ending(place.fit(output=disk / "result"))
        tried("read-only output folder")
        assert told.code == 2
        assert told.last == (
            f"madpipe: cannot write beside {disk / 'result'}: Read-only file system; choose another -o."
        )
        assert place.runs() == []


def test_scores_for_a_read_only_folder_are_refused_in_one_line(fitted, process, tried, tmpfs):
    with tmpfs("size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        told = process(
            *("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz"),
            *("-o", disk / "scores.csv"),
            cwd=fitted.folder,
        )
        tried("read-only output folder")
        assert told.code == 1
        assert told.err == f"madpipe: Read-only file system: {disk / 'scores.csv.partial'}.\n"


def everybody_may_run(program: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (program.resolve(), program, *program.resolve().parents))


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder takes root to make")
@pytest.mark.skipif(not everybody_may_run(Path(sys.executable)), reason="other users may not run this interpreter")
def test_a_user_without_the_right_to_write_is_refused_in_one_line(place, tried):
    place.folder.chmod(0o755)
    told = ending(place.fit(user=65534))
    tried("read-only output folder")
    assert told.code in (1, 2)
    assert "Traceback" not in told.talk
    assert told.last.startswith("madpipe: ")
    assert not place.output.exists()
