"""What every registered task keeps, its table being the list. Targets are hardly trained: none is asked to be good."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from madpipe.components.sites import find_sites
from madpipe.registry import TASKS
from madpipe.targets.load import weights_digest
from madpipe.targets.pretrain import pretrain
from madpipe.tasks import boolean, digits_target, induction, measurement_tampering, quirky_transformer, superposition
from madpipe.tasks.cache import read_task, write_task
from madpipe.tasks.task import Task

WITHOUT_ANOMALIES = {"compressed_computation", "cross_layer", "gated_functions", "superposition"}
WITH_ANOMALIES = [name for name in TASKS if name not in WITHOUT_ANOMALIES]
SMALL: dict[str, dict[str, Any]] = {
    "boolean": {"trusted": 300},
    "co_activation": {"features": 8, "hidden": 6, "novel": 2, "trusted": 300},
    "induction": {"trusted": 300},
    "measurement_tampering": {"trusted": 300},
    "quirky_transformer": {"modulus": 11, "trusted": 60},
}
STEPS = {digits_target: 40}  # so many that some attack succeeds; elsewhere FEWEST are enough
FEWEST = 12
each_task = pytest.mark.parametrize("name", WITH_ANOMALIES)


def briefly(most: int) -> Callable[..., None]:
    """`pretrain` of at most so many steps."""

    def train(module: torch.nn.Module, *arguments: Any, steps: int, **options: Any) -> None:
        pretrain(module, *arguments, steps=min(steps, most), **options)

    return train


@pytest.fixture(scope="module")
def built() -> Callable[..., Task]:
    """`built(name, again=False)`: the family's default task, small and hardly trained; built once unless `again`."""
    tasks: dict[str, Task] = {}

    def get(name: str, again: bool = False) -> Task:
        if again or name not in tasks:
            with pytest.MonkeyPatch.context() as patch:
                for module in (boolean, digits_target, induction, measurement_tampering, quirky_transformer):
                    patch.setattr(module, "pretrain", briefly(STEPS.get(module, FEWEST)))
                patch.setattr(superposition, "STEPS", 300)
                patch.setattr(superposition, "all_alive", lambda module: True)
                family = TASKS.load(name)
                tasks[name] = family.build(family.Config(**SMALL.get(name, {})))
        return tasks[name]

    return get


@each_task
def test_rows_are_finite_float32_of_one_shape(built, name):
    task = built(name)
    for rows in (task.trusted, task.untrusted, task.test, *([] if task.agree is None else [task.agree])):
        assert rows.dtype == np.float32
        assert np.isfinite(rows).all()
        assert rows.shape[1:] == task.trusted.shape[1:]
    assert len(task.test) == len(task.is_anomalous)


@each_task
def test_there_are_normals_and_anomalies_and_no_subset_holds_both(built, name):
    task = built(name)
    assert 0 < task.is_anomalous.sum() < len(task.test)
    for mask in task.subsets.values():
        assert mask.dtype == bool
        assert len(set(task.is_anomalous[mask].tolist())) <= 1


@each_task
def test_no_trusted_row_is_tested(built, name):
    task = built(name)
    trusted = {row.tobytes() for row in task.trusted}
    others = [task.test, task.untrusted, *([] if task.agree is None else [task.agree])]
    assert not trusted & {row.tobytes() for rows in others for row in rows}


@each_task
def test_the_target_is_frozen_takes_the_rows_and_has_the_sites(built, name):
    task = built(name)
    assert not task.target.module.training
    assert not any(parameter.requires_grad for parameter in task.target.module.parameters())
    assert find_sites(task.target.module, task.sites)
    outputs = task.target.module(torch.from_numpy(task.test[:3]))
    assert outputs.ndim == 2
    assert torch.isfinite(outputs).all()
    assert task.target.weights_digest == weights_digest(task.target.module.state_dict())


@each_task
def test_facts_are_numbers_and_mechanisms_are_json(built, name):
    task = built(name)
    assert 0 <= task.facts["clean_accuracy"] <= 1
    assert all(isinstance(value, float) for value in task.facts.values())
    assert json.loads(json.dumps(task.mechanisms)) == task.mechanisms


@each_task
def test_building_twice_gives_the_same_bits(built, name):
    task, again = built(name), built(name, again=True)
    assert again.target.weights_digest == task.target.weights_digest
    for rows in ("trusted", "untrusted", "test", "is_anomalous"):
        assert getattr(again, rows).tobytes() == getattr(task, rows).tobytes()
    assert again.facts == task.facts


@each_task
def test_what_the_cache_gives_back_is_the_task(built, name, tmp_path):
    task = built(name)
    write_task(task, tmp_path / "it")
    again = read_task(tmp_path / "it")
    assert again is not None
    assert again.target.weights_digest == task.target.weights_digest
    assert np.array_equal(again.test, task.test)
    assert {k: v.tolist() for k, v in again.subsets.items()} == {k: v.tolist() for k, v in task.subsets.items()}
    assert again.mechanisms == task.mechanisms


@each_task
def test_trusted_rows_by_default_are_enough_to_split(name):
    assert TASKS.load(name).Config().trusted >= 250


@pytest.mark.parametrize("name", TASKS)
def test_it_carries_the_name_it_is_listed_under(name):
    assert TASKS.load(name).name == name
