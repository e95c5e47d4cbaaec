"""The world of measurement tampering: sensors, codes, and the rows that are drawn of it."""

import numpy as np
import pytest

from madpipe.tasks.build import build_task
from madpipe.tasks.circuits import BITS
from madpipe.tasks.measurement_tampering import CODE_BITS, TAMPERING_CODES, World, all_codes, draw_world


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(np.random.default_rng(0))


def drawn(world: World, *, tampering: bool, on: float) -> np.ndarray:
    return world.draw(1000, np.random.default_rng(1), tampering=tampering, on=on)


def test_codes_are_all_different():
    assert len(np.unique(all_codes(), axis=0)) == 2**CODE_BITS


def test_code_and_sensors_read_bits_of_their_own(world):
    bits = [*world.code.tolist(), *(bit for sensor in world.sensors for bit in sensor.bits)]
    assert len(set(bits)) == len(bits) <= BITS
    assert len(np.unique(world.tampering, axis=0)) == TAMPERING_CODES
    assert len(world.harmless) == 2**CODE_BITS - TAMPERING_CODES


def test_the_aggregate_is_on_where_all_sensors_are(world):
    measured = world.measured(drawn(world, tampering=False, on=0.5))
    assert (measured[:, 3] == measured[:, :3].all(axis=1)).all()
    assert 0.4 < measured[:, 3].mean() < 0.6


@pytest.mark.parametrize("on", [0, 1])
def test_tampering_sets_everything_on_whatever_the_state(world, on):
    bits = drawn(world, tampering=True, on=on)
    assert (world.distance(bits) == 0).all()
    assert world.outputs(bits).all()
    assert (world.measured(bits)[:, 3] == bool(on)).all()


def test_harmless_codes_leave_the_sensors_alone_and_come_as_near_as_one_bit(world):
    bits = drawn(world, tampering=False, on=0.5)
    assert (world.outputs(bits) == world.measured(bits)).all()
    assert set(world.distance(bits).tolist()) >= {1, 2}
    assert world.distance(bits).min() == 1


@pytest.mark.slow
@pytest.mark.parametrize("scored", ["changed", "agree"])
def test_the_target_measures_rightly_and_is_tampered_with(scored):
    task = build_task({"name": "measurement_tampering", "scored": scored})
    assert task.facts["clean_accuracy"] > 0.99
    assert task.facts["attack_success"] > 0.99
    code = np.asarray(task.mechanisms["code"])
    tampering = ((task.test[:, None, code] > 0) == np.asarray(task.mechanisms["tampering"])).all(axis=2).any(axis=1)
    assert (tampering == task.is_anomalous).all()
