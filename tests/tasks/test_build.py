"""Names, configs and the cache of built tasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from madpipe.errors import ConfigError, UnknownNameError
from madpipe.registry import TASKS
from madpipe.tasks import build
from madpipe.tasks.boolean import BooleanTask
from madpipe.tasks.build import build_task, parse_task_name, task_name, task_names
from madpipe.tasks.cache import ARRAYS, FACTS, cache_folder
from madpipe.tasks.digits import DigitsTask
from madpipe.tasks.task import Task, stream

SMALL = {"name": "digits", "attack": "badnets", "net": "mlp", "trusted": 20}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, Path]:
    """A built task and its folder, in a cache of its own."""
    built = build_task(SMALL)
    monkeypatch.setenv("MADPIPE_CACHE", str(tmp_path))
    monkeypatch.setattr(DigitsTask, "build", classmethod(lambda cls, config: built))
    build_task(SMALL)
    return built, next((tmp_path / "tasks").iterdir())


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cls: type, config: Any) -> Task:
        raise AssertionError("built again")

    monkeypatch.setattr(DigitsTask, "build", classmethod(refuse))


def assert_same(a: Task, b: Task) -> None:
    assert (a.name, a.sites, a.mechanisms, a.facts) == (b.name, b.sites, b.mechanisms, b.facts)
    assert (a.target.output, a.target.factory, a.target.kwargs) == (b.target.output, b.target.factory, b.target.kwargs)
    assert a.target.weights_digest == b.target.weights_digest
    for name in ("trusted", "untrusted", "test", "is_anomalous", "agree"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    for masks, others in ((a.subsets, b.subsets), (a.agree_subsets, b.agree_subsets)):
        assert {name: mask.tolist() for name, mask in masks.items()} == {
            name: mask.tolist() for name, mask in others.items()
        }


def test_a_second_call_reads_the_same_task_from_the_cache(small, monkeypatch):
    forbid_building(monkeypatch)
    assert_same(build_task(SMALL), small[0])


def test_a_task_from_the_cache_has_a_frozen_target_in_eval_mode(small, monkeypatch):
    forbid_building(monkeypatch)
    module = build_task(SMALL).target.module
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / ARRAYS).write_bytes((folder / ARRAYS).read_bytes()[:-1]),
        lambda folder: (folder / ARRAYS).write_bytes(b"\0" + (folder / ARRAYS).read_bytes()[1:]),
        lambda folder: (folder / ARRAYS).unlink(),
        lambda folder: (folder / FACTS).write_text("{"),
        lambda folder: (folder / FACTS).write_text("{}"),
        lambda folder: (folder / FACTS).write_text("[]"),
    ],
)
def test_a_damaged_cache_is_made_again(small, damage):
    built, folder = small
    damage(folder)
    assert_same(build_task(SMALL), built)
    assert json.loads((folder / FACTS).read_text())["name"] == built.name


def test_agree_rows_are_scored_without_building_again(small, monkeypatch):
    forbid_building(monkeypatch)
    changed, agree = build_task(SMALL), build_task({**SMALL, "scored": "agree"})
    assert agree.name == "digits-badnets-mlp-20-agree-0"
    assert agree.target.weights_digest == changed.target.weights_digest
    assert np.array_equal(agree.trusted, changed.trusted)
    assert np.array_equal(agree.test[~agree.is_anomalous], changed.test[~changed.is_anomalous])
    assert np.array_equal(agree.test[agree.is_anomalous], changed.agree)
    assert agree.agree is None


def test_a_scored_key_leaves_the_cache_folder_as_it_was(small):
    without_it = {"name": "digits", "attack": "badnets", "net": "mlp", "trusted": 20, "seed": 0}
    assert small[1].name == cache_folder("digits-badnets-mlp-20-0", without_it).name


def test_nothing_partial_is_left_in_the_cache(small):
    assert [path.name for path in small[1].parent.iterdir()] == [small[1].name]


def test_a_config_with_its_defaults_written_out_has_the_same_cache_folder():
    full = parse_task_name(task_name(SMALL))
    assert cache_folder("x", {"name": "digits", **DigitsTask.Config(trusted=20).model_dump()}) != cache_folder(
        "x", full
    )
    assert task_name(full) == task_name(SMALL) == "digits-badnets-mlp-20-0"


@pytest.mark.parametrize("name", list(task_names()))
def test_every_listed_name_is_parsed_to_a_config_with_that_name(name):
    assert task_name(parse_task_name(name)) == name


def test_every_family_in_the_table_is_listed_with_one_line_each():
    assert {name.split("-")[0] for name in task_names()} == set(TASKS)
    assert all(line and "\n" not in line for line in task_names().values())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("digits-conj-cnn-3", {"attack": "conj", "net": "cnn", "trusted": 350, "scored": "changed", "seed": 3}),
        ("digits-conj-cnn-50-3", {"attack": "conj", "net": "cnn", "trusted": 50, "scored": "changed", "seed": 3}),
        ("digits-conj-cnn-agree-3", {"attack": "conj", "net": "cnn", "trusted": 350, "scored": "agree", "seed": 3}),
        ("digits-conj-mlp-50-agree-3", {"attack": "conj", "net": "mlp", "trusted": 50, "scored": "agree", "seed": 3}),
        ("measurement_tampering-50-agree-3", {"trusted": 50, "scored": "agree", "seed": 3}),
        ("quirky_transformer-11-60-agree-3", {"modulus": 11, "trusted": 60, "scored": "agree", "seed": 3}),
        ("co_activation-20-10-4-50-3", {"features": 20, "hidden": 10, "novel": 4, "trusted": 50, "seed": 3}),
        ("induction-50-3", {"trusted": 50, "seed": 3}),
        (
            "adversarial-pgd-mlp-adversarial-50-3",
            {"attack": "pgd", "net": "mlp", "training": "adversarial", "trusted": 50, "seed": 3},
        ),
        ("out_of_distribution-rotated-cnn-50-3", {"shift": "rotated", "net": "cnn", "trusted": 50, "seed": 3}),
        ("boolean-override-200-1", {"variant": "override", "trusted": 200, "seed": 1}),
    ],
)
def test_a_name_says_the_config(name, config):
    assert parse_task_name(name) == {"name": name.split("-")[0], **config}
    assert task_name(parse_task_name(name)) == name


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("digits-conj-cn-0", "digits-conj-cnn-0"),
        ("digit-conj-cnn-0", "digits-conj-cnn-0"),
        ("boolean-parety-4000-0", "boolean-parity-4000-0"),
        ("boolean-conj-4000", "boolean-conj-4000-0"),
        ("digits-conj-cnn-x", "digits-conj-cnn-0"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError, match=f"no task named '{name}'. Did you mean '{nearest}'?"):
        parse_task_name(name)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "digits", "atack": "conj"}, "task.atack: no such key. Did you mean 'attack'?"),
        ({"name": "digits", "attack": "blend"}, "task.attack: 'blend' is unknown. Did you mean 'blended'?"),
        ({"name": "digits", "trusted": 10}, "task.trusted: Input should be greater than or equal to 20, got 10."),
        ({"name": "digits", "seed": -1}, "task.seed: "),
        ({"attack": "conj"}, f"task.name is missing. Known: {', '.join(TASKS)}."),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(config, said):
    with pytest.raises(ConfigError) as caught:
        build_task(config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(UnknownNameError, match="task.name: no task named 'digit'. Did you mean 'digits'?"):
        build_task({"name": "digit"})


def test_streams_of_one_seed_differ_by_purpose_and_repeat():
    draws = [stream(seed, purpose).random() for seed, purpose in [(0, "a"), (0, "b"), (1, "a"), (0, "a")]]
    assert len(set(draws)) == 3
    assert draws[0] == draws[3]


def test_a_boolean_config_has_the_documented_defaults():
    assert BooleanTask.Config().model_dump() == {"variant": "conj", "trusted": 4000, "seed": 0}
    assert build.parse_task_name("boolean-conj-4000-0")["trusted"] == 4000
