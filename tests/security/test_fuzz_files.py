"""Mutated files of every kind: madpipe's own errors or a result, never another exception, a hang or an unpickler."""

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madpipe.errors import MadpipeError

ROWS = (".npy", ".npz", ".csv", ".parquet", ".safetensors")
KINDS = ("config", *ROWS, "weights.pt", "weights.safetensors", "detector")
CONFIGS = (
    b"task: {name: digits, seed: 1}\ndecomposition: {method: spd, steps: 1e2}\n",
    b"target: {factory: m.py:build, output: categorical}\ndata: {trusted: x}\ntrainer: &a {}\ntracking: *a\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def made(targets, folder):
    """Kind of file -> what is fuzzed with it."""
    rows = {suffix: targets.rows_target(folder, suffix) for suffix in ROWS}
    weights = {f"weights{suffix}": targets.weights_target(folder, suffix) for suffix in (".pt", ".safetensors")}
    config, detector = targets.config_target(folder, CONFIGS), targets.detector_target(folder)
    return rows | weights | {"config": config, "detector": detector}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_read(kind, made):
    for seed in made[kind].seeds:
        made[kind].run(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_read_or_refused(kind, made, mutated, targets):
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def holds(data):
        content = data.draw(mutated(made[kind].seeds))
        with suppress(MadpipeError):
            made[kind].run(content)

    with pytest.MonkeyPatch.context() as patch:
        targets.forbid_pickles(patch.setattr)
        holds()
