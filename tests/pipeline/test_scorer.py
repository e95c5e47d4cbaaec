"""A loaded pipeline: one input has one score, whatever is scored with it, before it or at the same time."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from madpipe.errors import UnknownNameError
from madpipe.pipeline.fitting import usable_precision
from madpipe.pipeline.scorer import Pipeline, Scored, usable_device


@pytest.fixture(scope="module", params=["fitted", "cross_fitted"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    made = request.getfixturevalue(request.param)
    return Pipeline.load(made if isinstance(made, Path) else made.pipeline)


@pytest.fixture(scope="module")
def mixed(own_rows):
    return np.concatenate([own_rows(40, 5), own_rows(20, 6, anomalous=True)])


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, mixed) -> Scored:
    return pipeline.score(mixed)


@pytest.mark.parametrize("size", [1, 7, 59])
def test_an_input_has_the_same_score_in_a_batch_of_any_size(pipeline, mixed, whole, size):
    parts = [pipeline.score(mixed[start : start + size]) for start in range(0, len(mixed), size)]
    assert np.concatenate([part.anomaly_score for part in parts]) == pytest.approx(whole.anomaly_score, rel=1e-5)
    assert np.array_equal(np.concatenate([part.p_value for part in parts]), whole.p_value)
    assert [names for part in parts for names in part.top_components] == whole.top_components
    for name, scores in whole.members.items():
        assert np.concatenate([part.members[name] for part in parts]) == pytest.approx(scores, rel=1e-5)


def test_an_input_has_the_same_score_beside_quite_different_ones(pipeline, mixed, whole):
    beside = pipeline.score(np.concatenate([mixed[:3], 1e3 * mixed[3:]]))
    assert beside.anomaly_score[:3] == pytest.approx(whole.anomaly_score[:3], rel=1e-5)
    assert np.array_equal(beside.p_value[:3], whole.p_value[:3])


def test_rows_come_back_in_the_order_in_which_they_went_in(pipeline, mixed, whole):
    order = np.random.default_rng(0).permutation(len(mixed))
    shuffled = pipeline.score(mixed[order])
    assert shuffled.anomaly_score == pytest.approx(whole.anomaly_score[order], rel=1e-5)
    assert np.array_equal(shuffled.p_value, whole.p_value[order])
    assert shuffled.top_components == [whole.top_components[row] for row in order]


def test_inputs_that_need_what_trusted_ones_never_used_rank_last(pipeline, whole):
    assert whole.p_value[40:].max() <= 2 / (pipeline.calibration_size + 1)
    assert whole.p_value[40:].max() < whole.p_value[:40].mean()


def test_different_inputs_have_different_scores(whole):
    assert len(set(whole.anomaly_score)) == len(whole.anomaly_score)


def test_every_input_has_as_many_top_components_as_the_config_says(pipeline, whole):
    wanted = pipeline.config["scoring"]["top"]
    assert {len(names) for names in whole.top_components} == {wanted}
    assert all(len(set(names)) == wanted for names in whole.top_components)


def test_scoring_does_not_change_what_it_is_given(pipeline, mixed):
    before = mixed.copy()
    pipeline.score(mixed)
    assert np.array_equal(mixed, before)


def test_threads_may_share_a_pipeline(pipeline, mixed, whole):
    with ThreadPoolExecutor(4) as threads:
        for scored in threads.map(lambda _: pipeline.score(mixed), range(8)):
            assert np.array_equal(scored.anomaly_score, whole.anomaly_score)


def test_member_p_values_rank_each_member_among_its_own_calibration_scores(pipeline, mixed):
    ranked = pipeline.member_p_values(mixed)
    assert list(ranked) == pipeline.member_names
    steps = pipeline.calibration_size + 1
    for p in ranked.values():
        assert np.rint(p * steps) == pytest.approx(p * steps)


def test_a_pipeline_says_what_it_takes_and_how_many_rows_rank_it(fitted, cross_fitted):
    one, many = Pipeline.load(fitted.pipeline), Pipeline.load(cross_fitted)
    assert (one.input_shape, one.key, one.calibration_size) == ((6,), "x", 99)
    assert (many.input_shape, many.key, many.calibration_size) == ((6,), "x", 60)


def test_loading_and_scoring_write_nothing_into_the_folder(fitted, own_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    copy = Path(shutil.copytree(fitted.pipeline, tmp_path / "pipeline"))
    before = sorted(copy.rglob("*"))
    Pipeline.load(copy).score(own_rows(3, 0))
    assert sorted(copy.rglob("*")) == before


def test_the_target_that_scores_is_bit_for_bit_the_one_that_was_fitted(fitted):
    from safetensors.torch import load_file

    held = Pipeline.load(fitted.pipeline).method.model.target.state_dict()
    given = load_file(fitted.folder / "weights.safetensors")
    assert all(torch.equal(held[name].float(), value) for name, value in given.items())


@pytest.mark.parametrize("name", ["gpu", "cud", "cpu:x", "meta"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(UnknownNameError, match=f"no usable device named '{name}'.*cpu"):
        usable_device(name)


class OwnType(nn.Module):
    """Adds a float32 constant by an operation that does not promote types."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(x.float(), torch.ones(4, 4)) @ self.linear.weight.T


def test_a_target_that_cannot_run_in_float64_is_scored_in_float32():
    assert usable_precision(nn.Linear(4, 2), torch.zeros(1, 4), "float64") == "float64"
    assert usable_precision(OwnType(), torch.zeros(1, 4), "float64") == "float32"
    assert usable_precision(nn.Linear(4, 2), torch.zeros(1, 4), "float32") == "float32"


def test_precision_is_chosen_by_what_arithmetic_costs():
    assert usable_precision(nn.Linear(4, 2), torch.zeros(1, 4), "auto") == "float64"
    assert usable_precision(nn.Linear(400, 250), torch.zeros(1, 400), "auto") == "float32"


def test_parts_are_named_for_the_inputs_asked_alone(fitted, own_rows):
    pipeline = Pipeline.load(fitted.pipeline)
    x = np.concatenate([own_rows(20, 1), own_rows(5, 2, anomalous=True)])
    every, some = pipeline.score(x), pipeline.score(x, named_below=0.05)
    assert all(every.top_components)
    assert 0 < sum(map(bool, some.top_components)) < len(x)
    for names, named, p in zip(every.top_components, some.top_components, every.p_value, strict=True):
        assert named == (names if p <= 0.05 else [])
