"""A target that reads token ids goes through the whole of `fit`, with ids stored as integers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from madpipe.config.loading import load_config
from madpipe.pipeline.scorer import Pipeline
from madpipe.targets import transformer
from madpipe.targets.pretrain import build_seeded
from madpipe.workflows.fit import fit

SIZES = {"vocabulary": 7, "length": 4, "width": 8, "heads": 2, "neurons": 6, "layers": 1}
CONFIG = """
target:
  factory: madpipe.targets.transformer:build
  kwargs: {vocabulary: 7, length: 4, width: 8, heads: 2, neurons: 6, layers: 1}
  weights: weights.safetensors
  output: categorical
data: {trusted: tokens.npz, key: x}
decomposition: {method: spd, steps: 20}
calibration: {folds: 1}
tracking: {experiment: tokens, register: false}
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pipeline]:
    folder = tmp_path_factory.mktemp("tokens")
    module = build_seeded(lambda: transformer.build(**SIZES), 0)
    save_file(module.state_dict(), folder / "weights.safetensors")
    tokens = np.random.default_rng(0).integers(7, size=(240, 4))
    assert tokens.dtype == np.int64
    np.savez(folder / "tokens.npz", x=tokens)
    (folder / "config.yaml").write_text(CONFIG)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    result = fit(
        load_config(folder / "config.yaml"), base=folder, output=folder / "p", tracking_uri=store, report=lambda _: None
    )
    return folder, Pipeline.load(result.pipeline)


def test_new_sequences_are_scored_alike_as_integers_and_as_floats(fitted):
    tokens = np.random.default_rng(1).integers(7, size=(9, 4))
    scores = [fitted[1].score(x).anomaly_score for x in (tokens.astype(np.float32), tokens)]
    assert np.isfinite(scores[0]).all()
    assert np.array_equal(*scores)


def test_the_example_in_the_store_holds_ids_that_the_target_knows(fitted):
    (path,) = fitted[0].rglob("input_example.json")
    example = np.array(json.loads(path.read_text()))
    assert example.shape == (2, 4)
    assert set(example.ravel().tolist()) <= set(range(7))
