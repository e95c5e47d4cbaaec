"""`madpipe config`: with the plug-ins that madpipe lists."""

import json

import pytest
import yaml

from madpipe.config.loading import load_config
from madpipe.config.resolving import resolved
from madpipe.config.schema import DEFAULT_MEMBERS
from madpipe.registry import EXTRACTORS, METHODS, TASKS


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("target: {factory: 'my_model.py:build'}\ndata: {trusted: trusted.npz}\n")
    return path


def test_what_show_prints_is_a_config_that_means_the_same(madpipe, own, tmp_path):
    ended = madpipe("config", "show", own, "--set", "decomposition.steps=17")
    assert ended.code == 0
    (tmp_path / "whole.yaml").write_text(ended.out)
    assert yaml.safe_load(ended.out)["decomposition"]["steps"] == 17
    assert resolved(load_config(tmp_path / "whole.yaml")) == yaml.safe_load(ended.out)


def test_show_ends_with_the_fit_of_the_same_config(madpipe, own):
    assert madpipe("config", "show", own, "--set", "seed=1").err == f"Next: madpipe fit {own} --set seed=1\n"


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_is_valid_with_its_defaults(madpipe, tmp_path, task):
    (tmp_path / "x.yaml").write_text(f"task: {{name: {task}}}\n")
    ended = madpipe("config", "validate", tmp_path / "x.yaml")
    assert (ended.code, ended.out) == (0, "")
    assert f"x.yaml is valid: task {task}, method spd, {len(DEFAULT_MEMBERS)} members. Next: madpipe fit " in ended.err


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_valid_with_its_defaults(madpipe, own, method):
    assert madpipe("config", "validate", own, "--set", f"decomposition.method={method}").code == 0


@pytest.mark.parametrize("extractor", list(EXTRACTORS))
def test_every_extractor_is_valid_with_its_defaults(madpipe, own, extractor):
    assert madpipe("config", "validate", own, "--set", f"patterns.{extractor}={{}}").code == 0


def test_an_invalid_config_ends_with_2_and_one_line(madpipe, own):
    ended = madpipe("config", "validate", own, "--set", "decomposition.stepz=1")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"madpipe: {own}: decomposition.stepz: no such key. Did you mean 'steps'?")
    assert ended.err.count("\n") == 1


def test_the_schema_is_json_and_knows_every_plugin(madpipe):
    schema = json.loads(madpipe("config", "schema").out)
    known = [f"{table.kind}.{name}" for table in (METHODS, EXTRACTORS, TASKS) for name in table]
    assert set(known) <= schema["$defs"].keys()
