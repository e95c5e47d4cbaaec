"""The working folder of a fit: kept for the same fit, cleared for another one, never shared."""

from pathlib import Path

import pytest

from madpipe.errors import MissingFileError
from madpipe.pipeline.workspace import STATE, open_workspace


def leave_checkpoint(output: Path, identity: dict, **notes: str) -> Path:
    """What a fit that was killed leaves behind: its checkpoint."""
    with open_workspace(output, identity) as workspace:
        workspace.checkpoints.mkdir()
        workspace.note(**notes)
    (workspace.checkpoints / "last.ckpt").touch()
    return workspace.checkpoints / "last.ckpt"


def test_the_same_fit_finds_its_checkpoints_and_notes(tmp_path):
    checkpoint = leave_checkpoint(tmp_path / "it", {"seed": 0}, decomposition_run_id="r1")
    with open_workspace(tmp_path / "it", {"seed": 0}) as workspace:
        assert workspace.resumed
        assert checkpoint.exists()
        assert workspace.notes["decomposition_run_id"] == "r1"


def test_another_fit_finds_an_empty_folder(tmp_path):
    checkpoint = leave_checkpoint(tmp_path / "it", {"seed": 0}, decomposition_run_id="r1")
    with open_workspace(tmp_path / "it", {"seed": 1}) as workspace:
        assert not workspace.resumed
        assert not checkpoint.exists()
        assert "decomposition_run_id" not in workspace.notes


def test_the_order_of_keys_makes_no_other_fit(tmp_path):
    leave_checkpoint(tmp_path / "it", {"a": 1, "b": {"c": 2, "d": 3}})
    with open_workspace(tmp_path / "it", {"b": {"d": 3, "c": 2}, "a": 1}) as workspace:
        assert workspace.resumed


@pytest.mark.parametrize("state", ["", "[1]", '{"identity": 3}'])
def test_notes_that_cannot_be_read_are_those_of_another_fit(tmp_path, state):
    checkpoint = leave_checkpoint(tmp_path / "it", {"seed": 0})
    (checkpoint.parents[1] / STATE).write_text(state)
    with open_workspace(tmp_path / "it", {"seed": 0}) as workspace:
        assert not workspace.resumed
        assert not checkpoint.exists()


def test_a_second_fit_into_the_same_output_is_refused_and_harms_nothing(tmp_path):
    with open_workspace(tmp_path / "it", {"seed": 0}) as first:
        first.checkpoints.mkdir()
        with (
            pytest.raises(MissingFileError, match="another process is writing .*it now; wait for it"),
            open_workspace(tmp_path / "it", {"seed": 1}),
        ):
            pass
        assert first.checkpoints.is_dir()


def test_another_output_is_free(tmp_path):
    with open_workspace(tmp_path / "one", {}), open_workspace(tmp_path / "two", {}) as second:
        assert not second.resumed


def test_folders_above_the_output_are_made(tmp_path):
    with open_workspace(tmp_path / "a" / "b" / "it", {}) as workspace:
        assert workspace.folder == tmp_path / "a" / "b" / "it.partial"


def test_an_output_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(MissingFileError, match="cannot write beside .*Not a directory; choose another -o"),
        open_workspace(tmp_path / "file" / "it", {}),
    ):
        pass
