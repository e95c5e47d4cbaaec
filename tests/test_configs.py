"""Every config that madpipe ships can be read, and those that a README shows can be run."""

from pathlib import Path

import pytest
import yaml

from madpipe.config.loading import load_config
from madpipe.config.resolving import resolved
from madpipe.config.suite import load_suite
from madpipe.tasks.build import build_task
from madpipe.workflows.benchmark_plan import cells_of

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs" / "fit").rglob("*.yaml"))
SUITES = sorted((ROOT / "configs" / "suite").rglob("*.yaml"))


def test_there_are_configs():
    assert {"own_model.yaml", "digits_conj_cnn.yaml"} <= {path.name for path in CONFIGS}
    assert {path.stem for path in SUITES} == {"small", "boolean", "digits", "other", "patterns"}
    assert sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file()) == sorted(CONFIGS + SUITES)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_is_valid_and_names_itself_and_the_command_that_runs_it(path):
    suite = load_suite(path)
    assert suite.name == path.stem
    assert f"madpipe benchmark {path.relative_to(ROOT)}" in path.read_text()
    assert len(cells_of(suite)) >= len(suite.tasks) * len(suite.seeds) * (len(suite.pipelines) + suite.controls)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_valid_and_means_the_same_when_written_out(path, tmp_path):
    whole = resolved(load_config(path))
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole))
    assert resolved(load_config(tmp_path / "whole.yaml")) == whole


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_names_its_experiment_and_the_command_that_runs_it(path):
    assert load_config(path).tracking.experiment != "madpipe"
    assert f"madpipe fit {path.name if path.stem == 'own_model' else path.relative_to(ROOT)}" in path.read_text()


def test_the_own_model_config_means_what_the_tests_fit(fitted):
    shipped = resolved(load_config(ROOT / "configs" / "fit" / "own_model.yaml"))
    assert shipped == resolved(load_config(fitted.folder / "config.yaml"))


def test_the_own_model_config_runs_beside_the_files_it_names(madpipe, write_own_model, tmp_path, monkeypatch):
    monkeypatch.chdir(write_own_model(tmp_path))
    config = (ROOT / "configs" / "fit" / "own_model.yaml").read_text()
    Path("config.yaml").write_text(config)
    quick = ["--set", "decomposition.steps=20", "--set", "tracking.enabled=false"]
    assert madpipe("fit", "config.yaml", "-o", "pipeline", *quick).code == 0
    assert madpipe("score", "--pipeline", "pipeline", "test.npz", "-o", "scores.parquet").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "own_model"], ids=lambda path: path.stem)
def test_a_config_of_a_task_is_fitted_and_scores_the_tasks_test_data(madpipe, path, tmp_path, monkeypatch):
    import numpy as np

    monkeypatch.chdir(tmp_path)
    task = load_config(path).task
    assert task is not None
    built = build_task(task)
    np.savez("test.npz", x=built.test[:200])
    quick = ["--set", "decomposition.steps=20", "--set", "tracking.enabled=false"]
    assert madpipe("fit", path, "-o", "pipeline", *quick).code == 0
    assert madpipe("score", "--pipeline", "pipeline", "test.npz", "-o", "scores.csv").code == 0
