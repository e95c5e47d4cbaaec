"""The superposition tasks as built: every feature lives, mechanisms are the weights, nothing is anomalous."""

import numpy as np
import pytest
import torch

from madpipe.components.sites import find_sites
from madpipe.errors import ConfigError, UnknownNameError
from madpipe.tasks import superposition
from madpipe.tasks.build import build_task, parse_task_name, task_name
from madpipe.tasks.superposition import SuperpositionTask, Tied, all_alive, train_tied
from madpipe.tasks.task import Task

PENTAGON = torch.stack([torch.arange(5) * 0.4 * torch.pi + angle for angle in (0.0, -torch.pi / 2)], dim=1).cos()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "identity"])
def task(request: pytest.FixtureRequest) -> Task:
    return build_task({"name": "superposition", "identity": request.param, "rows": 5000})


def tied(weight: torch.Tensor, bias: float) -> Tied:
    module = Tied(*weight.shape).requires_grad_(False)
    module.weight.copy_(weight)
    module.bias.fill_(bias)
    return module


def has_identity(task: Task) -> bool:
    return bool(task.target.kwargs["identity"])


def test_five_features_lie_on_a_pentagon(task):
    weight = task.target.module.linear1.weight.T  # [5, 2]
    cosines = torch.sort(torch.nn.functional.cosine_similarity(weight[:, None], weight[None], dim=2), dim=1).values
    # between neighbours cos 72 degrees = 0.309, between others cos 144 degrees = -0.809
    assert torch.allclose(cosines, torch.tensor([-0.809, -0.809, 0.309, 0.309, 1.0]).expand(5, 5), atol=0.02)


def test_every_feature_is_given_back_and_others_hardly_move(task):
    outputs = task.target.module(torch.eye(5))
    assert (outputs.diagonal() > 0.9).all()
    assert (outputs - outputs.diag().diag()).max() < 0.25


def test_weights_are_tied_in_value_and_apart_in_memory(task):
    module = task.target.module
    assert torch.equal(module.linear2.weight, module.linear1.weight.T)
    assert module.linear2.weight.data_ptr() != module.linear1.weight.data_ptr()


def test_the_identity_is_a_site_that_changes_nothing(task):
    names = [site.name for site in find_sites(task.target.module, task.sites)]
    assert names == (["linear1", "hidden", "linear2"] if has_identity(task) else ["linear1", "linear2"])
    if has_identity(task):
        assert torch.equal(task.target.module.hidden.weight, torch.eye(2))


def test_every_feature_is_a_mechanism_of_both_layers(task):
    parts = task.mechanisms["parts"]
    assert [(part["site"], part["side"], part["feature"]) for part in parts] == [
        (site, side, i) for site, side in (("linear1", "read"), ("linear2", "write")) for i in range(5)
    ]
    assert len({part["name"] for part in parts}) == 10
    assert task.mechanisms["features"] == 5
    assert task.mechanisms["blocks"] == ([{"site": "hidden", "rank": 2}] if has_identity(task) else [])


def test_no_row_is_anomalous(task):
    assert task.trusted.shape == (5000, 5)
    assert task.test.shape == (1000, 5)
    assert not task.is_anomalous.any()
    assert task.untrusted is None
    assert task.agree is None


def test_test_rows_are_fresh(task):
    on = task.test[(task.test > 0).any(axis=1)]
    known = task.trusted[(task.trusted > 0).any(axis=1)]
    assert len(np.unique(np.concatenate([on, known]), axis=0)) == len(on) + len(known)


def test_facts_are_those_of_the_target(task):
    norms = task.target.module.linear1.weight.norm(dim=0)
    outputs = task.target.module(torch.eye(5))
    assert task.facts["feature_norm_min"] == pytest.approx(float(norms.min()), rel=1e-5)
    assert task.facts["feature_norm_max"] == pytest.approx(float(norms.max()), rel=1e-5)
    assert task.facts["own_output_min"] == pytest.approx(float(outputs.diagonal().min()), rel=1e-5)
    # a network that gives back nothing has p E[x^2] = 0.05 / 3 = 0.0167
    assert 0 < task.facts["loss"] < 0.0025
    assert task.facts["starts"] == 1


def test_fewer_rows_and_an_identity_leave_the_weights_as_they_are(task, monkeypatch):
    monkeypatch.setattr(superposition, "STEPS", 20)
    monkeypatch.setattr(superposition, "all_alive", lambda module: True)
    configs = [{}, {"rows": 50}, {"identity": True}]
    built = [SuperpositionTask.build(SuperpositionTask.Config(**config)) for config in configs]
    assert len({str(one.target.module.linear1.weight.tolist()) for one in built}) == 1
    assert len(built[1].trusted) == 50


def test_a_pentagon_is_alive():
    assert all_alive(tied(1.13 * PENTAGON, bias=-0.25))


def test_a_dead_feature_is_seen():
    weight = 1.13 * PENTAGON
    weight[3] *= 0.4  # below half the largest norm
    assert not all_alive(tied(weight, bias=0.4))


def test_features_that_are_not_given_back_are_seen():
    assert not all_alive(tied(0.6 * PENTAGON, bias=0.0))  # 0.36 of a lone 1


def test_two_features_in_one_direction_are_seen():
    weight = 1.13 * PENTAGON
    weight[1] = weight[0]
    assert not all_alive(tied(weight, bias=-0.25))


def test_a_start_that_fails_is_followed_by_the_next(monkeypatch):
    monkeypatch.setattr(superposition, "STEPS", 1)
    seen: list[Tied] = []
    monkeypatch.setattr(superposition, "all_alive", lambda module: seen.append(module) or len(seen) == 3)
    module, starts = train_tied(SuperpositionTask.Config())
    assert starts == 3
    assert module is seen[2]
    assert not torch.equal(seen[0].weight, seen[1].weight)


def test_when_every_start_fails_the_error_says_what_to_ask_for(monkeypatch):
    monkeypatch.setattr(superposition, "STEPS", 1)
    with pytest.raises(ConfigError, match="none of 20 starts kept 12 features apart in 2 dimensions; ask for fewer"):
        train_tied(SuperpositionTask.Config(features=12))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("superposition-5-2-3", {"features": 5, "hidden": 2, "identity": False, "rows": 20_000, "seed": 3}),
        ("superposition-40-10-id-0", {"features": 40, "hidden": 10, "identity": True, "rows": 20_000, "seed": 0}),
        ("superposition-6-3-id-500-1", {"features": 6, "hidden": 3, "identity": True, "rows": 500, "seed": 1}),
    ],
)
def test_a_name_says_the_config(name, config):
    assert parse_task_name(name) == {"name": "superposition", **config}
    assert task_name(parse_task_name(name)) == name


@pytest.mark.parametrize("name", ["superposition-5-2", "superposition-5-2-di-0", "superposition-2-5-0"])
def test_a_wrong_name_is_refused_with_the_nearest(name):
    with pytest.raises(UnknownNameError, match="Did you mean 'superposition-5-2-"):
        parse_task_name(name)


def test_as_many_dimensions_as_features_are_refused_in_one_line():
    with pytest.raises(
        ConfigError, match=r"task.hidden: .* fewer hidden dimensions than features \(5\), got 5"
    ) as error:
        build_task({"name": "superposition", "hidden": 5})
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_forty_features_live_in_ten_dimensions():
    built = build_task({"name": "superposition", "features": 40, "hidden": 10, "identity": True})
    outputs = built.target.module(torch.eye(40))
    assert (outputs.diagonal() > 0.8).all()
    assert (outputs - outputs.diag().diag()).max() < 0.2
    assert built.facts["feature_norm_min"] > 0.9 * built.facts["feature_norm_max"]
    assert built.mechanisms["blocks"] == [{"site": "hidden", "rank": 10}]
