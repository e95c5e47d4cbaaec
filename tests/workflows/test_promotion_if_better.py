"""`promote --if-better`: the champion goes only for a version that was evaluated better on the same data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from madpipe.tracking.model_registry import ModelVersion, register
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import open_store

NAME = "my-model"


@pytest.fixture
def store(fitted, tmp_path) -> str:
    """A copy of the store in which the own model is version 1, candidate and champion."""
    shutil.copy(fitted.folder / "mlflow.db", tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def second_version(uri: str, pipeline: Path) -> ModelVersion:
    """A candidate beside the champion: the cross-fitted pipeline, logged as `fit` does."""
    from madpipe.pipeline.folder import folder_digest

    with open_store(uri, NAME).run("another", "detector", {"pipeline_digest": folder_digest(pipeline)}) as run:
        return register(run, log_pipeline(run, pipeline, np.zeros((2, 6), np.float32)), NAME)


def champion(uri: str) -> str:
    return str(MlflowClient(uri).get_registered_model(NAME).aliases["champion"])


@pytest.fixture
def say(madpipe, store):
    def run(*words: object) -> object:
        return madpipe(*words, "--tracking-uri", store)

    return run


PROMOTE = ("promote", NAME, "@candidate", "--if-better", "auroc", "--trust-code")


def test_without_a_logged_evaluation_nobody_can_say(say, store):
    ended = say(*PROMOTE)
    assert ended.code == 2
    assert "models:/my-model/1 has no logged auroc; 'madpipe evaluate" in ended.err


def test_a_champion_that_is_the_candidate_stays_it(say, fitted, store):
    assert say("evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--log").code == 0
    ended = say(*PROMOTE)
    assert (ended.code, ended.out) == (0, "my-model: champion 1 -> 1\n")


def test_the_better_of_two_is_champion_whichever_is_asked_for(say, fitted, cross_fitted, store, own_rows, tmp_path):
    faint = own_rows(100, 5, anomalous=True) * np.array([1, 1, 1, 1, 1, 0.02], np.float32)  # no detector finds them all
    labelled = tmp_path / "labelled.npz"
    np.savez(labelled, x=np.concatenate([own_rows(100, 4), faint]), is_anomalous=np.arange(200) >= 100)
    assert second_version(store, cross_fitted).aliases == ("candidate",)
    figures = []
    for pipeline in (fitted.pipeline, cross_fitted):
        ended = say("evaluate", "--pipeline", pipeline, labelled, "--log", "--json")
        assert ended.code == 0, ended.err
        figures.append(json.loads(ended.out)["default"]["auroc"])
    assert figures[0] != figures[1]
    better = str(1 + int(figures[1] > figures[0]))
    ended = say(*PROMOTE, "--json")
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["compared"]["value"] == figures[1]
    assert document["compared"]["champion_value"] == figures[0]
    assert str(document["version"]) == champion(store) == better
    assert say("promote", NAME, "1", "--if-better", "auroc", "--trust-code").code == 0
    assert champion(store) == better


def test_evaluations_on_different_data_are_not_compared(say, fitted, cross_fitted, store, tmp_path):
    second_version(store, cross_fitted)
    with np.load(fitted.folder / "test.npz") as arrays:
        np.savez(tmp_path / "test.npz", x=arrays["x"][10:], is_anomalous=arrays["is_anomalous"][10:])
    say("evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--log")
    say("evaluate", "--pipeline", cross_fitted, tmp_path / "test.npz", "--log")
    ended = say(*PROMOTE)
    assert ended.code == 2
    assert "on other data" in ended.err
    assert champion(store) == "1"
