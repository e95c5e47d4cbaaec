"""Compressed computation and its cross-layer form: the network is what was trained, and beats the naive one."""

import pytest
import torch

from madpipe.components.sites import find_sites
from madpipe.errors import ConfigError
from madpipe.tasks import residual_relu
from madpipe.tasks.build import build_task, parse_task_name, task_name, validated
from madpipe.tasks.residual_relu import FeatureSpace, ResidualConfig, train_features, train_target, write_weights
from madpipe.tasks.task import Task

SMALL = {"features": 20, "residual": 200, "rows": 2000}
KINDS = {
    "one": {"name": "compressed_computation", "neurons": 10, **SMALL},
    "two": {"name": "cross_layer", "neurons": 5, **SMALL},
    "three": {"name": "cross_layer", "layers": 3, "neurons": 4, **SMALL},
}


@pytest.fixture(scope="module", params=KINDS)
def task(request: pytest.FixtureRequest) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual_relu, "STEPS", 500)
        return built_afresh(KINDS[request.param])


def built_afresh(config: dict) -> Task:
    """What fewer steps made must not end in the cache."""
    family, values = validated(config)
    return family.build(values)


@pytest.fixture
def built() -> tuple[FeatureSpace, torch.nn.Module]:
    """A network in feature coordinates and the same as written into a residual network, both untrained."""
    config = ResidualConfig(features=6, neurons=4, residual=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual_relu, "STEPS", 1)
        patch.setattr(residual_relu, "START", 0.5)
        target = train_target(config, layers=3)
        return train_features(config, 3, target.module.embedding), target.module


def test_the_written_network_is_the_trained_one_in_feature_coordinates(built):
    space, module = built
    x = torch.randn(50, 6)
    assert torch.allclose(module(x), space(x), atol=1e-5)
    assert module(x).std() > 1  # what is compared is not nothing


def test_what_a_layer_reads_of_each_feature_is_what_was_trained(built):
    space, module = built
    for layer, A in zip(module.layers, space.reading, strict=True):
        assert torch.allclose(module.embedding @ layer.mlp_in.weight.T, A, atol=1e-6)  # E W_in = A


def test_a_layer_reads_and_writes_nothing_but_features(built):
    _, module = built
    outside = torch.eye(30) - torch.linalg.pinv(module.embedding) @ module.embedding
    for layer in module.layers:
        assert (layer.mlp_in.weight @ outside).abs().max() < 1e-5
        assert (outside @ layer.mlp_out.weight).abs().max() < 1e-5


def test_writing_leaves_the_embedding_alone(built):
    space, module = built
    before = module.embedding.clone()
    write_weights(space, module)
    assert torch.equal(module.embedding, before)


def test_the_trained_network_beats_the_naive_one_and_that_none(task):
    assert task.facts["loss"] < task.facts["naive_loss"] < task.facts["no_layers_loss"]


def test_the_naive_loss_is_that_of_the_features_left_out(task):
    # Left out: a share of ReLUs with E[relu(x)^2] = p / 6 each. Overlaps: p / 3 * sum of G_ij^2 over j != i, in the
    # mean 19 / 200. Both to four standard errors of the mean over 50,000 rows, about a tenth.
    neurons = sum(block["rank"] for block in task.mechanisms["blocks"])
    expected = 0.01 / 6 * (1 - neurons / 20) + 0.01 / 3 * 19 / 200
    assert task.facts["naive_loss"] == pytest.approx(expected, rel=0.15)


def test_every_feature_comes_out_nearer_to_2_than_to_1(task):
    own = task.target.module(torch.eye(20)).diagonal()
    assert own.mean() > 1.5
    assert float(own.min()) == pytest.approx(task.facts["own_output_min"], rel=1e-5)


def test_only_the_layers_are_sites(task):
    sites = {site.name for site in find_sites(task.target.module, task.sites)}
    assert sites == {part["site"] for part in task.mechanisms["parts"]} | {
        block["site"] for block in task.mechanisms["blocks"]
    }
    assert len(sites) == 2 * task.target.kwargs["layers"]


def test_every_layer_reads_each_feature_along_the_embedding(task):
    mechanisms, state = task.mechanisms, task.target.module.state_dict()
    assert mechanisms["features"] == 20
    assert len(mechanisms["parts"]) == 20 * task.target.kwargs["layers"]
    for site, name in mechanisms["reading"].items():
        assert state[name].shape == (20, state[f"{site}.weight"].shape[1])
        assert torch.allclose(state[name].norm(dim=1), torch.ones(20))


def test_the_norms_of_mechanisms_are_among_the_facts(task):
    state = task.target.module.state_dict()
    norms = [(state["embedding"] @ state[f"{site}.weight"].T).norm(dim=1) for site in task.mechanisms["reading"]]
    assert task.facts["feature_norm_min"] == pytest.approx(float(torch.stack(norms).min()), rel=1e-5)
    assert task.facts["feature_norm_max"] == pytest.approx(float(torch.stack(norms).max()), rel=1e-5)


def test_what_a_layer_writes_has_the_rank_of_its_block(task):
    state = task.target.module.state_dict()
    for block in task.mechanisms["blocks"]:
        sizes = torch.linalg.svdvals(state[f"{block['site']}.weight"])
        assert (sizes > 0.02 * sizes[0]).sum() == block["rank"] == task.target.kwargs["neurons"]


def test_no_row_is_anomalous(task):
    assert task.trusted.shape == (2000, 20)
    assert task.test.shape == (1000, 20)
    assert not task.is_anomalous.any()
    assert task.untrusted is None


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("compressed_computation-100-50-1000-2", {"features": 100, "neurons": 50, "rows": 20_000, "seed": 2}),
        ("compressed_computation-100-50-1000-300-2", {"features": 100, "neurons": 50, "rows": 300, "seed": 2}),
        ("cross_layer-3-102-17-1000-0", {"layers": 3, "features": 102, "neurons": 17, "rows": 20_000, "seed": 0}),
        ("cross_layer-2-100-25-1000-300-0", {"layers": 2, "features": 100, "neurons": 25, "rows": 300, "seed": 0}),
    ],
)
def test_a_name_says_the_config(name, config):
    assert parse_task_name(name) == {"name": name.split("-")[0], "residual": 1000, **config}
    assert task_name(parse_task_name(name)) == name


def test_a_stream_narrower_than_its_features_is_refused_in_one_line():
    with pytest.raises(ConfigError, match="task.residual: .*needs a dimension for each of 100 features, got 99"):
        build_task({"name": "compressed_computation", "residual": 99})


@pytest.mark.slow
def test_fifty_neurons_compute_a_hundred_functions_better_than_fifty():
    built = build_task({"name": "compressed_computation"})
    assert built.facts["loss"] < 0.62 * built.facts["naive_loss"]  # the papers' training: 0.68e-3 of 1.15e-3
    assert built.facts["own_output_min"] > 1.3
