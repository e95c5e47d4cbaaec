"""Every kind of target, output, weight file and method that the README promises goes through the whole of `fit`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from madpipe.config.loading import load_config
from madpipe.errors import FactoryError
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.fit import fit

NETWORKS = """
import torch
from torch import nn


def mlp(outputs=3):
    return seeded(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, outputs))


def convolutional():
    return seeded(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))


def normalised():
    return seeded(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 3))


def one_layer():
    return seeded(nn.Linear(6, 3))


def seeded(*layers):
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return nn.Sequential(*layers)
"""


@pytest.fixture
def folder(tmp_path: Path, write_own_model) -> Path:
    write_own_model(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORKS)
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", x=generator.random((240, 1, 6, 6)).astype(np.float32))
    return tmp_path


def fitted_with(folder: Path, *overrides: str) -> Pipeline:
    settings = ["tracking.enabled=false", "decomposition.steps=40", *overrides]
    result = fit(
        load_config(folder / "config.yaml", settings), base=folder, output=folder / "p", report=lambda line: None
    )
    return Pipeline.load(result.pipeline)


def check_scores(pipeline: Pipeline, x: np.ndarray) -> None:
    """Batch-free, finite, continuous, with reasons: what every pipeline owes."""
    whole = pipeline.score(x)
    alone = [pipeline.score(x[i : i + 1]) for i in range(len(x))]
    assert np.isfinite(whole.anomaly_score).all()
    assert np.concatenate([one.anomaly_score for one in alone]) == pytest.approx(whole.anomaly_score, rel=1e-5)
    assert np.array_equal(np.concatenate([one.p_value for one in alone]), whole.p_value)
    assert len(set(whole.anomaly_score)) == len(x)
    assert all(whole.top_components)


@pytest.mark.parametrize("output", ["regression", "bernoulli"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_that_are_no_categories(folder, own_rows, output, outputs):
    target = ["target.factory=networks.py:mlp", "target.weights=null", f"target.kwargs.outputs={outputs}"]
    check_scores(fitted_with(folder, *target, f"target.output={output}"), own_rows(5, 9))


def test_images_and_convolutions(folder):
    target = ["target.factory=networks.py:convolutional", "target.weights=null", "data.trusted=images.npz"]
    pipeline = fitted_with(folder, *target)
    assert pipeline.input_shape == (1, 6, 6)
    assert [(site.name, site.kind) for site in pipeline.method.model.sites] == [
        ("0", "conv2d"),
        ("3", "linear"),
    ]
    check_scores(pipeline, np.random.default_rng(1).random((5, 1, 6, 6)).astype(np.float32))


def test_batch_norm_and_dropout_are_run_as_in_use(folder, own_rows):
    target = ["target.factory=networks.py:normalised", "target.weights=null"]
    check_scores(fitted_with(folder, *target), own_rows(5, 9))


@pytest.mark.parametrize("chosen", ["target.factory=networks.py:one_layer", "target.sites=['0']"])
def test_a_target_without_a_hidden_site(folder, own_rows, chosen):
    weights = ["target.weights=null"] if "factory" in chosen else []
    check_scores(fitted_with(folder, chosen, *weights), own_rows(5, 9))


@pytest.mark.parametrize("images", [False, True])
def test_parameter_components_of_apd(folder, own_rows, images):
    target = ["target.factory=networks.py:convolutional", "target.weights=null", "data.trusted=images.npz"]
    pipeline = fitted_with(folder, "decomposition.method=apd", *(target if images else []))
    assert pipeline.method.name == "apd"
    x = np.random.default_rng(1).random((5, 1, 6, 6)).astype(np.float32) if images else own_rows(5, 9)
    check_scores(pipeline, x)


def test_single_precision_keeps_law_3(folder, own_rows):
    pipeline = fitted_with(folder, "scoring.precision=float32")
    assert pipeline.facts["precision"] == "float32"
    x = own_rows(300, 9)
    whole, some = pipeline.score(x), range(0, 300, 7)
    alone = [pipeline.score(x[i : i + 1]) for i in some]
    assert np.concatenate([one.anomaly_score for one in alone]) == pytest.approx(whole.anomaly_score[some], rel=1e-5)
    assert np.array_equal(np.concatenate([one.p_value for one in alone]), whole.p_value[some])


def test_single_precision_scores_nearly_as_double(folder, own_rows):
    single, x = fitted_with(folder, "scoring.precision=float32"), own_rows(200, 9)
    shutil.rmtree(folder / "p")
    double = fitted_with(folder, "scoring.precision=float64")
    assert single.score(x).anomaly_score == pytest.approx(double.score(x).anomaly_score, abs=0.01)


def test_a_state_dict_of_torch_is_the_same_as_safetensors(folder, own_rows):
    from_safetensors = fitted_with(folder)
    torch.save(load_file(folder / "weights.safetensors"), folder / "weights.pt")
    shutil.rmtree(folder / "p")
    from_torch = fitted_with(folder, "target.weights=weights.pt")
    assert (folder / "p" / "target" / "weights.safetensors").is_file()
    x = own_rows(5, 9)
    assert np.array_equal(from_torch.score(x).anomaly_score, from_safetensors.score(x).anomaly_score)


def test_a_factory_in_a_package_is_recorded_and_not_copied(folder, own_rows, monkeypatch):
    package = folder / "site" / "their_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(folder / "my_model.py", package / "networks.py")
    monkeypatch.syspath_prepend(folder / "site")
    pipeline = fitted_with(folder, "target.factory=their_package.networks:build")
    assert [path.name for path in (folder / "p" / "target").iterdir()] == ["weights.safetensors"]
    assert pipeline.facts["target"]["factory"] == "their_package.networks:build"
    assert pipeline.facts["target"]["package"] == {"their_package": None}  # no distribution, so no version
    check_scores(pipeline, own_rows(5, 9))


def refusal_before_training(folder: Path, *overrides: str) -> str:
    with pytest.raises(FactoryError) as refused:
        fitted_with(folder, *overrides)
    assert not list(folder.glob("p*"))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_factory_that_needs_a_file_beside_it_is_refused_before_training(folder):
    (folder / "sibling.py").write_text("WIDTH = 12\n")
    text = (folder / "my_model.py").read_text()
    (folder / "my_model.py").write_text(f"from sibling import WIDTH\n{text}")
    said = refusal_before_training(folder)
    assert said.startswith("target.factory: my_model.py:build cannot be built from its own file and weights alone")
    assert "No module named 'sibling'" in said


def test_a_factory_that_draws_what_no_weights_file_holds_is_refused_before_training(folder):
    (folder / "networks.py").write_text(
        "import torch\n"
        "class Noisy(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x + self.noise)\n"
        "def build():\n"
        "    made = Noisy(6, 3)\n"
        "    made.noise = torch.randn(6)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(6, 6), made)\n"
    )
    said = refusal_before_training(
        folder, "target.factory=networks.py:build", "target.weights=null", "target.sites=['0']"
    )
    assert "gives other outputs when it is built again with the same weights" in said


def test_several_kinds_of_members_report_beside_the_combined_ones(folder, own_rows):
    members = """{
        residual: {detector: standardised_mean, patterns: reconstruction, features: ["kl_*"]},
        near: {detector: knn, patterns: activations, options: {k: 3}},
        bits: {detector: surprise, patterns: causal_importances, combine: false},
        delta: {detector: mahalanobis, patterns: delta, combine: false}}""".replace("\n", " ")
    pipeline = fitted_with(folder, f"detectors.members={members}")
    assert pipeline.member_names == ["residual", "near", "bits", "delta"]
    check_scores(pipeline, own_rows(5, 9))
    assert set(pipeline.score(own_rows(5, 9)).members) == {"residual", "near", "bits", "delta"}
