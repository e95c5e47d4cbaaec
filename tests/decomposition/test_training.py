"""Training under Lightning: rounds, reports, and a resumed run that is the uninterrupted one (law 10)."""

from pathlib import Path

import pytest
import torch

from madpipe.decomposition import training
from madpipe.decomposition.decompose import decompose
from madpipe.decomposition.training import mean_terms, train
from madpipe.errors import DamagedFileError, DivergedError
from madpipe.registry import METHODS

STEPS = 70  # four rounds of 20, 20, 20 and 10 steps


class StoppedError(Exception):
    """What stands in for an interruption."""


def run(method, rows, checkpoints: Path, progress=lambda step, terms: None) -> None:
    train(
        method,
        rows,
        [torch.arange(len(rows))] * method.model.instances,
        seed=3,
        checkpoints=checkpoints,
        trainer_options={"accelerator": "cpu"},
        progress=progress,
    )


def state(method) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


def assert_same_bits(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stop_at", [40, 60])
def test_an_interrupted_run_ends_at_the_uninterrupted_result(
    start, small_mlp, rows, tmp_path, monkeypatch, name, stop_at
):
    monkeypatch.setattr(training, "CHECKPOINT_ROUNDS", 1)
    whole = start(name, small_mlp, rows, steps=STEPS, alive_after=25)
    run(whole, rows, tmp_path / "whole")

    def stop(step: int, terms: dict[str, float]) -> None:
        if step == stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(start(name, small_mlp, rows, steps=STEPS, alive_after=25), rows, tmp_path / "cut", stop)
    seen: list[int] = []
    resumed = start(name, small_mlp, rows, seed=9, steps=STEPS, alive_after=25)  # another start: all is in the file
    run(resumed, rows, tmp_path / "cut", lambda step, terms: seen.append(step))
    assert 0 < len(seen) < 4
    assert seen[-1] == STEPS
    assert_same_bits(state(resumed), state(whole))


def test_a_run_reports_after_every_round(start, small_mlp, rows, tmp_path):
    seen: list[int] = []
    run(start("spd", small_mlp, rows, steps=STEPS), rows, tmp_path, lambda step, terms: seen.append(step))
    assert seen == [20, 40, 60, 70]


def test_a_report_holds_every_term(start, small_mlp, rows, tmp_path):
    seen: list[dict[str, float]] = []
    run(start("apd", small_mlp, rows, steps=20), rows, tmp_path, lambda step, terms: seen.append(dict(terms)))
    assert set(seen[0]) == {"total", "faithfulness", "minimality", "hidden", "simplicity"}


def test_training_lowers_the_loss(start, small_mlp, rows, tmp_path):
    seen: list[float] = []
    method = start("apd", small_mlp, rows, steps=200)
    run(method, rows, tmp_path, lambda step, terms: seen.append(terms["total"]))
    assert seen[-1] < 0.5 * seen[0]


def test_a_checkpoint_holds_tensors_alone(start, small_mlp, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_ROUNDS", 1)
    run(start("spd", small_mlp, rows, steps=20), rows, tmp_path)
    torch.load(tmp_path / "last.ckpt", weights_only=True)


def test_a_parameter_that_is_not_finite_stops_the_run_with_the_name_of_a_term(start, small_mlp, rows, tmp_path):
    method = start("apd", small_mlp, rows, steps=20)
    method.model.V[0].data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="the loss term '(faithfulness|minimality)' is not finite at step 20"):
        run(method, rows, tmp_path)


def test_a_term_is_averaged_over_the_steps_that_have_it():
    # total: ((1 + 3) / 2 + (5 + 7) / 2) / 2 = 4; price is only in the second
    history = [{"total": torch.tensor([1.0, 3.0])}, {"total": torch.tensor([5.0, 7.0]), "price": torch.tensor([2.0])}]
    assert mean_terms(history) == {"total": 4.0, "price": 2.0}


def decomposed(target, rows, folder: Path, seed: int = 0):
    method_class = METHODS.load("spd")
    from madpipe.components.sites import find_sites

    return decompose(
        target,
        find_sites(target),
        method_class,
        method_class.Config(steps=30, batch_size=16, components=6, importance_hidden=4),
        "categorical",
        rows,
        seed=seed,
        checkpoints=folder,
        trainer_options={"accelerator": "cpu"},
        progress=lambda step, terms: None,
    )


def test_the_same_seed_decomposes_alike_to_the_bit(small_mlp, rows, tmp_path):
    first, second = (decomposed(small_mlp, rows, tmp_path / name) for name in "ab")
    assert_same_bits(state(second), state(first))


def test_a_decomposition_is_settled_frozen_and_leaves_the_target(small_mlp, rows, tmp_path):
    before = {key: value.clone() for key, value in small_mlp.state_dict().items()}
    method = decomposed(small_mlp, rows, tmp_path)
    assert not method.training
    assert not any(p.requires_grad for p in method.parameters())
    assert_same_bits(dict(small_mlp.state_dict()), before)


def test_one_variant_is_trained_per_instance(small_mlp, rows, tmp_path):
    method = decomposed(small_mlp, rows, tmp_path)
    assert method.model.instances == len(method.variant_names)


def test_a_damaged_checkpoint_is_named(start, small_mlp, rows, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(DamagedFileError, match=r"last\.ckpt"):
        run(start("spd", small_mlp, rows, steps=STEPS), rows, tmp_path)
