"""The gated functions: the network adds up the functions whose bits are on, each by neurons of its own."""

import numpy as np
import pytest
import torch

from madpipe.tasks.build import build_task, parse_task_name, task_name
from madpipe.tasks.gated_functions import draw_function
from madpipe.tasks.task import Task, stream

X = np.linspace(0, 5, 101)  # holds every knot of 11: 0, 0.5, ..., 5


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task({"name": "gated_functions", "functions": 3, "neurons": 11, "rows": 4000, "seed": 1})


def output(task: Task, bits: list[int], weights: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """The network's output at X under these bits, with some weights replaced."""
    rows = np.column_stack([X, *(np.full(len(X), bit) for bit in bits)]).astype(np.float32)
    return torch.func.functional_call(task.target.module, weights or {}, torch.from_numpy(rows))[:, 0].numpy()


def interpolated(i: int) -> np.ndarray:
    knots = np.linspace(0, 5, 11)
    return np.interp(X, knots, draw_function(stream(1, f"function {i}"), knots))


def one_hot(i: int) -> list[int]:
    return [int(j == i) for j in range(3)]


def owned(task: Task, site: str, i: int) -> dict:
    return next(part for part in task.mechanisms["functions"] if (part["name"], part["site"]) == (f"f{i}", site))


@pytest.mark.parametrize("i", range(3))
def test_one_bit_gives_its_function(task, i):
    assert np.abs(output(task, one_hot(i)) - interpolated(i)).max() < 1e-4


def test_no_bit_gives_nothing(task):
    assert (output(task, [0, 0, 0]) == 0).all()


def test_bits_add_up(task):
    assert np.abs(output(task, [1, 0, 1]) - interpolated(0) - interpolated(2)).max() < 1e-4


def test_every_function_is_large_enough_to_matter(task):
    sizes = [np.sqrt((interpolated(i)[::10] ** 2).mean()) for i in range(3)]
    assert min(sizes) >= 0.25
    assert task.facts["smallest_function"] == pytest.approx(min(sizes), abs=0.02)


@pytest.mark.parametrize("i", range(3))
def test_without_its_rows_a_function_is_gone_and_the_others_stay(task, i):
    weight = task.target.module.fc1.weight.clone()
    weight[owned(task, "fc1", i)["rows"]] = 0
    assert (output(task, one_hot(i), {"fc1.weight": weight}) == 0).all()
    others = [1 - bit for bit in one_hot(i)]
    assert np.array_equal(output(task, others, {"fc1.weight": weight}), output(task, others))


@pytest.mark.parametrize("i", range(3))
def test_with_its_columns_alone_a_function_is_whole(task, i):
    weight = torch.zeros_like(task.target.module.head.weight)
    columns = owned(task, "head", i)["columns"]
    weight[:, columns] = task.target.module.head.weight[:, columns]
    assert np.abs(output(task, [1, 1, 1], {"head.weight": weight}) - interpolated(i)).max() < 1e-4


def test_functions_share_no_neuron_and_leave_none_out(task):
    neurons = [neuron for i in range(3) for neuron in owned(task, "fc1", i)["rows"]]
    assert sorted(neurons) == list(range(33))
    assert all(owned(task, "fc1", i)["rows"] == owned(task, "head", i)["columns"] for i in range(3))


@pytest.mark.parametrize("i", range(3))
def test_what_a_function_reads_has_rank_one(task, i):
    rows = task.target.module.fc1.weight[owned(task, "fc1", i)["rows"]]
    assert torch.linalg.matrix_rank(rows) == 1


def test_rows_are_an_x_and_seldom_bits_and_none_is_anomalous(task):
    x, bits = task.trusted[:, 0], task.trusted[:, 1:]
    assert task.trusted.shape == (4000, 4)
    assert 0 <= x.min() < 0.05
    assert 4.95 < x.max() <= 5
    assert set(np.unique(bits)) == {0.0, 1.0}
    assert bits.mean() == pytest.approx(0.05, abs=0.01)  # 5 sqrt(0.05 * 0.95 / 12,000)
    assert not task.is_anomalous.any()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gated_functions-4-10-0", {"functions": 4, "neurons": 10, "rows": 20_000, "seed": 0}),
        ("gated_functions-3-5-70-2", {"functions": 3, "neurons": 5, "rows": 70, "seed": 2}),
    ],
)
def test_a_name_says_the_config(name, config):
    assert parse_task_name(name) == {"name": "gated_functions", **config}
    assert task_name(parse_task_name(name)) == name
