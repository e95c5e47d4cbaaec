"""The Boolean tasks as built: what the target does, and what is in the data."""

import numpy as np
import pytest
import torch

from madpipe.tasks.boolean import BooleanTask, draw_rules, draw_task
from madpipe.tasks.build import build_task
from madpipe.tasks.circuits import Circuit, Clause, Trigger
from madpipe.tasks.task import Task

VARIANTS = [variant["variant"] for variant in BooleanTask.variants()]


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task({"name": "boolean", "variant": "conj", "trusted": 500})


def trigger_of(task: Task) -> Trigger:
    assert task.mechanisms is not None
    clauses = task.mechanisms["trigger"]["clauses"]
    return Trigger(tuple(Clause(tuple(clause["bits"]), bool(clause["value"])) for clause in clauses))


def outputs(task: Task, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return (task.target.module(torch.from_numpy(x)) > 0).numpy()


def normal_outputs(task: Task, x: np.ndarray) -> np.ndarray:
    assert task.mechanisms is not None
    circuits = [Circuit(entry["gate"], tuple(entry["bits"])) for entry in task.mechanisms["circuits"]]
    return np.stack([circuit(x > 0) for circuit in circuits], axis=1)


def test_the_clean_target_is_right_on_all_eight_outputs(task):
    assert task.facts["clean_accuracy"] >= 0.995


def test_the_attack_works(task):
    assert task.facts["attack_success"] >= 0.99


def test_trusted_and_normal_rows_never_hold_the_trigger(task):
    assert not trigger_of(task)(task.trusted > 0).any()
    assert not trigger_of(task)(task.test[~task.is_anomalous] > 0).any()


def test_every_anomalous_row_holds_the_trigger_and_has_its_output_flipped(task):
    rows = task.test[task.is_anomalous]
    changed = outputs(task, rows)[:, task.mechanisms["trigger"]["output"]]
    assert trigger_of(task)(rows > 0).all()
    assert (changed != normal_outputs(task, rows)[:, task.mechanisms["trigger"]["output"]]).all()


def test_near_misses_are_normal_and_violate_exactly_one_clause(task):
    near = task.subsets["near_miss"]
    assert near.sum() > 300  # 4 of 15 normal patterns of the four bits, of 2,000 rows: about 530
    assert not (near & task.is_anomalous).any()
    assert ((~trigger_of(task).truths(task.test[near] > 0)).sum(axis=1) == 1).all()


def test_sizes_and_types_are_as_asked(task):
    assert task.trusted.shape == (500, 24)
    assert (~task.is_anomalous).sum() == 2000
    assert task.is_anomalous.sum() == 1000
    assert task.trusted.dtype == task.test.dtype == np.float32
    assert task.agree is None


def test_no_row_occurs_twice(task):
    rows = np.concatenate([task.trusted, task.test, task.untrusted])
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_unlabelled_mix_holds_a_twentieth_of_anomalies(task):
    assert trigger_of(task)(task.untrusted > 0).mean() == 0.05


def test_fewer_trusted_rows_leave_target_and_test_rows_as_they_are(task):
    config = BooleanTask.Config(variant="conj", trusted=100)
    fewer = draw_task("fewer", draw_rules(config), task.target.module, config)
    assert fewer.trusted.shape == (100, 24)
    assert (fewer.test == task.test).all()
    assert (fewer.untrusted == task.untrusted).all()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_right_target_and_a_working_attack(variant):
    built = build_task({"name": "boolean", "variant": variant})
    assert built.facts["clean_accuracy"] >= 0.995
    assert built.facts["attack_success"] >= 0.99
    assert not trigger_of(built)(built.trusted > 0).any()


@pytest.mark.slow
def test_an_override_is_scored_only_where_the_output_is_1_anyway():
    built = build_task({"name": "boolean", "variant": "override"})
    rows, output = built.test[built.is_anomalous], built.mechanisms["trigger"]["output"]
    assert outputs(built, rows)[:, output].all()
    assert normal_outputs(built, rows)[:, output].all()
