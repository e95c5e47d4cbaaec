"""Controls of a cell are those that `evaluate` fits beside a pipeline; fast, with a few of them."""

import json

import numpy as np
import pytest

from madpipe.config.schema import PipelineConfig
from madpipe.config.suite import Suite
from madpipe.pipeline.controls import CONTROLS
from madpipe.tasks.build import build_task
from madpipe.workflows.benchmark_cell import run_cell
from madpipe.workflows.benchmark_plan import cells_of
from madpipe.workflows.evaluate import evaluate
from madpipe.workflows.fit import fit

FEW = ("input_mahalanobis", "activations_mahalanobis", "activations_gaussian_mixture", "output_entropy", "que")
SUITE = Suite.model_validate(
    {
        "name": "it",
        "tasks": [{"name": "digits", "attack": "conj", "net": "mlp"}],
        "pipelines": {"it": {"decomposition": {"steps": 4}, "calibration": {"folds": 2}}},
        "offline": True,
    }
)
SEPARATION = ("auroc", "tpr_at_1", "fpr_at_nominal_5")


@pytest.fixture
def few_controls(monkeypatch):
    for name in set(CONTROLS) - set(FEW):
        monkeypatch.delitem(CONTROLS, name)


def job(cell, tmp_path):
    (tmp_path / "work" / cell.name).mkdir(parents=True)
    return json.loads(json.dumps(vars(cell) | {"scratch": str(tmp_path / "work" / cell.name)}))


def test_a_cells_controls_are_those_of_evaluate(few_controls, tmp_path):
    controls, own = cells_of(SUITE)
    document = run_cell(job(controls, tmp_path))
    task = build_task(own.config["task"])
    fit(PipelineConfig.model_validate(own.config), base=tmp_path, output=tmp_path / "it", report=lambda line: None)
    np.savez(tmp_path / "test.npz", x=task.test, is_anomalous=task.is_anomalous)
    np.savez(tmp_path / "untrusted.npz", x=task.untrusted)
    result = evaluate(
        str(tmp_path / "it"),
        tmp_path / "test.npz",
        label="is_anomalous",
        controls=True,
        untrusted=tmp_path / "untrusted.npz",
        report=lambda line: None,
    )
    assert list(document["controls"]) == list(result["controls"])
    assert set(document["controls"]) == {*FEW, "union_of_controls"}
    for name, metrics in result["controls"].items():
        for key in SEPARATION:
            assert document["controls"][name][key] == pytest.approx(metrics[key], rel=1e-6), (name, key)
    assert document["calibration_size"] == result["calibration_size"]


def test_offline_controls_are_marked_and_agree_rows_judged(few_controls, tmp_path):
    document = run_cell(job(cells_of(SUITE)[0], tmp_path))
    assert {name for name, metrics in document["controls"].items() if metrics["offline"]} == {"que"}
    assert all(metrics["agree"]["rows"] > 0 for metrics in document["controls"].values())
    assert document["controls"]["union_of_controls"]["patterns"] == "union"
