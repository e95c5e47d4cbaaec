"""`madpipe tasks`: the list, and a task written out as an own model that fit accepts."""

import json

import numpy as np
import pytest

from madpipe.errors import DivergedError

TASK = "boolean-conj-4000-0"
FILES = {"model.py", "weights.safetensors", "trusted.npz", "test.npz", "config.yaml"}


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MADPIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_without_a_subcommand_the_tasks_are_listed(madpipe):
    bare, listed = madpipe("tasks"), madpipe("tasks", "list")
    assert bare == listed
    assert bare.code == 0


def test_every_line_of_the_list_is_a_name_and_what_it_is(madpipe):
    ended = madpipe("tasks", "list")
    lines = ended.out.splitlines()
    assert len(lines) > 5
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    assert ended.err == f"{len(lines)} tasks. Next: madpipe tasks export {lines[0].split()[0]} demo\n"


def test_the_list_as_json_has_the_same_names(madpipe):
    document = json.loads(madpipe("tasks", "list", "--json").out)
    names = [line.split()[0] for line in madpipe("tasks", "list").out.splitlines()]
    assert [task["name"] for task in document["tasks"]] == names


def test_an_unknown_task_ends_with_2_and_the_nearest_name(madpipe, tmp_path):
    ended = madpipe("tasks", "export", "digits-conj-cn-0", tmp_path / "demo")
    assert ended.code == 2
    assert "Did you mean 'digits-conj-cnn-0'?" in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", [TASK, "gated_functions-4-10-0"])  # the second holds no anomaly
def test_an_exported_task_is_an_own_model_with_a_valid_config(madpipe, tmp_path, task):
    ended = madpipe("tasks", "export", task, tmp_path / "demo")
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'demo'}\n"
    assert ended.err.endswith(f"Next: madpipe fit {tmp_path / 'demo' / 'config.yaml'}\n")
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= FILES
    assert madpipe("config", "validate", tmp_path / "demo" / "config.yaml").code == 0


def test_exported_labels_belong_to_the_exported_inputs(madpipe, tmp_path):
    madpipe("tasks", "export", TASK, tmp_path / "demo")
    with np.load(tmp_path / "demo" / "test.npz") as test, np.load(tmp_path / "demo" / "trusted.npz") as trusted:
        assert test["is_anomalous"].shape == (len(test["x"]),)
        assert test["is_anomalous"].dtype == bool
        assert trusted["x"].shape[1:] == test["x"].shape[1:]


def test_a_folder_with_something_in_it_is_left_alone(madpipe, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    ended = madpipe("tasks", "export", TASK, tmp_path)
    assert ended.code == 2
    assert "is not empty" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_left_alone(madpipe, tmp_path):
    (tmp_path / "demo").write_text("mine")
    assert madpipe("tasks", "export", TASK, tmp_path / "demo", "--overwrite").code == 2
    assert (tmp_path / "demo").read_text() == "mine"


def test_overwriting_replaces_the_tasks_files_and_nothing_else(madpipe, tmp_path):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "config.yaml").write_text("old")
    assert madpipe("tasks", "export", TASK, tmp_path, "--overwrite").code == 0
    assert {path.name for path in tmp_path.iterdir()} >= FILES | {"pipeline"}
    assert (tmp_path / "config.yaml").read_text() != "old"


def test_an_export_that_fails_leaves_nothing(madpipe, tmp_path, monkeypatch):
    def fail(task, folder):
        folder.mkdir()
        (folder / "model.py").write_text("half")
        raise DivergedError("no")

    monkeypatch.setattr("madpipe.workflows.tasks.write_task_folder", fail)
    assert madpipe("tasks", "export", TASK, tmp_path / "demo").code == 1
    assert not list(tmp_path.iterdir())
