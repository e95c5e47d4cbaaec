"""`madpipe fit`: what it hands to the workflow and what it prints."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from madpipe.errors import TooFewRowsError


@pytest.fixture
def fits(stand_in, monkeypatch):
    # Plug-in sections are checked in tests/test_config.py; importing every plug-in here would only cost time.
    monkeypatch.setattr("madpipe.config.loading.check_plugins", lambda config, source: None)
    result = SimpleNamespace(
        pipeline=Path("out/it"),
        run_id="r1",
        decomposition_run_id="r0",
        model_uri="models:/m/1",
        seconds=75.0,
        quality={},
        summary="500 calibration rows, 1 fold",
        unsent=None,
    )
    return stand_in("fit", lambda *_, **__: result)


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "x.yaml"
    path.write_text("task: {name: digits}\n")
    return path


def test_the_pipeline_folder_is_data_and_the_rest_is_talk(madpipe, fits, config_file):
    ended = madpipe("fit", config_file)
    assert ended.code == 0
    assert ended.out == "out/it\n"
    assert ended.err == (
        "Fitted out/it in 1 min 15 s (500 calibration rows, 1 fold), logged as models:/m/1."
        " Next: madpipe score --pipeline out/it new.npz -o scores.parquet\n"
    )


def test_json_is_one_document(madpipe, fits, config_file):
    assert json.loads(madpipe("fit", config_file, "--json").out) == {
        "pipeline": "out/it",
        "run_id": "r1",
        "decomposition_run_id": "r0",
        "model_uri": "models:/m/1",
        "unsent": None,
        "seconds": 75.0,
    }


def test_paths_in_the_config_are_relative_to_its_folder(madpipe, fits, config_file, monkeypatch):
    monkeypatch.chdir(config_file.parent.parent)
    madpipe("fit", "folder/x.yaml")
    assert fits[0][1]["base"] == config_file.parent.resolve()


def test_options_reach_the_workflow(madpipe, fits, config_file):
    madpipe("fit", config_file, "-o", "d", "--overwrite", "--tracking-uri", "sqlite:///a.db", "--set", "seed=3")
    (config,), options = fits[0]
    assert config.seed == 3
    assert options["output"] == Path("d")
    assert options["overwrite"] is True
    assert options["tracking_uri"] == "sqlite:///a.db"


def test_threads_are_set_in_the_environment_before_the_work_is_imported(madpipe, fits, config_file, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    madpipe("fit", config_file, "--threads", "2")
    assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"


def test_an_override_that_nobody_knows_ends_with_2(madpipe, fits, config_file):
    ended = madpipe("fit", config_file, "--set", "sede=3")
    assert ended.code == 2
    assert "sede: no such key. Did you mean 'seed'?" in ended.err
    assert not fits


def test_content_that_does_not_fit_ends_with_4_and_leaves_stdout_empty(madpipe, stand_in, config_file, fits):
    def refuse(*_, **__):
        raise TooFewRowsError("3 trusted rows, at least 20 are needed.")

    stand_in("fit", refuse)
    ended = madpipe("fit", config_file, "--json")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err == "madpipe: 3 trusted rows, at least 20 are needed.\n"
