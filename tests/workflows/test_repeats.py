"""One config and seed give the same bits on the CPU, wherever and however often they are fitted."""

from pathlib import Path

import pytest

from madpipe.config.loading import load_config
from madpipe.pipeline.folder import digest
from madpipe.workflows.fit import fit
from madpipe.workflows.score import score

BITWISE = [
    "folds/0/decomposition/components.safetensors",
    "folds/0/decomposition/statistics.safetensors",
    "folds/0/decomposition/decomposition.json",
    "folds/0/extractors/reconstruction.safetensors",
    "folds/0/involvement.safetensors",
    "ensemble/calibration.npz",
    "splits.npz",
    "target/weights.safetensors",
]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def fit_again(write_own_model, tmp_path_factory):
    def again(*overrides: str) -> Path:
        folder = write_own_model(tmp_path_factory.mktemp("again"))
        settings = ["decomposition.steps=60", "tracking.enabled=false", *overrides]
        return fit(
            load_config(folder / "config.yaml", settings), base=folder, output=folder / "pipeline", report=quiet
        ).pipeline

    return again


@pytest.fixture(scope="module")
def again(fit_again) -> Path:
    """In this process, logged nowhere, where `fitted` had a process of its own and MLflow beside it."""
    return fit_again()


@pytest.mark.parametrize("name", BITWISE)
def test_a_second_fit_writes_the_same_bytes(fitted, again, name):
    assert digest(again / name) == digest(fitted.pipeline / name)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_score_files_of_two_fits_are_the_same_bytes(fitted, again, tmp_path, ending):
    for name, pipeline in (("one", fitted.pipeline), ("two", again)):
        score(str(pipeline), [fitted.folder / "test.npz"], output=str(tmp_path / f"{name}{ending}"), report=quiet)
    assert digest(tmp_path / f"one{ending}") == digest(tmp_path / f"two{ending}")


def test_another_seed_gives_other_components_and_another_split(fitted, fit_again):
    other = fit_again("seed=1")
    for name in ("folds/0/decomposition/components.safetensors", "splits.npz"):
        assert digest(other / name) != digest(fitted.pipeline / name)


def test_what_a_program_drew_before_makes_no_difference(fitted, fit_again):
    import numpy as np
    import torch

    torch.manual_seed(123)
    np.random.seed(123)
    torch.rand(5)
    assert digest(fit_again() / BITWISE[0]) == digest(fitted.pipeline / BITWISE[0])
