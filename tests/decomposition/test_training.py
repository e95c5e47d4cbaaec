"""Training under Lightning: rounds, reports, and a resumed run that is the uninterrupted one (law 10)."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from madpipe.decomposition import training
from madpipe.decomposition.decompose import decompose
from madpipe.decomposition.training import mean_terms, train
from madpipe.errors import DivergedError, OutOfTimeError
from madpipe.registry import METHODS

STEPS = 70  # four rounds of 20, 20, 20 and 10 steps


class StoppedError(Exception):
    """What stands in for an interruption."""


def run(method, rows, checkpoints: Path, progress=lambda step, terms: None, **options: Any) -> None:
    train(
        method,
        rows,
        [torch.arange(len(rows))] * method.model.instances,
        seed=3,
        checkpoints=checkpoints,
        trainer_options={"accelerator": "cpu"} | options,
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
    with pytest.raises(DivergedError, match="the loss term '(faithfulness|minimality)' is not finite at step 0"):
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


@pytest.mark.parametrize("damaged", [["last.ckpt"], ["last.ckpt", "previous.ckpt"]])
def test_a_damaged_checkpoint_is_passed_over(start, small_mlp, rows, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(training, "CHECKPOINT_ROUNDS", 1)
    whole = start("spd", small_mlp, rows, steps=STEPS)
    run(whole, rows, tmp_path / "whole")

    def stop(step: int, terms: dict[str, float]) -> None:
        if step == 60:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(start("spd", small_mlp, rows, steps=STEPS), rows, tmp_path / "cut", stop)
    for name in damaged:
        (tmp_path / "cut" / name).write_bytes(b"not a checkpoint")
    seen: list[int] = []
    again = start("spd", small_mlp, rows, steps=STEPS)
    run(again, rows, tmp_path / "cut", lambda step, terms: seen.append(step))
    assert seen[0] == (20 if len(damaged) == 2 else 40)
    assert_same_bits(state(again), state(whole))


def checkpoint_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", METHODS)
def test_a_run_cut_by_the_time_limit_again_and_again_ends_at_the_uninterrupted_result(
    start, small_mlp, rows, tmp_path, name
):
    whole = start(name, small_mlp, rows, steps=7, alive_after=3)
    run(whole, rows, tmp_path / "whole")
    for done in range(1, 7):  # a limit of no time at all lets one step through
        cut = start(name, small_mlp, rows, steps=7, alive_after=3)
        with pytest.raises(OutOfTimeError, match=rf"max_time: 00:00:00:00 is over at step {done} of 7"):
            run(cut, rows, tmp_path / "cut", max_time="00:00:00:00")
        assert int(checkpoint_of(tmp_path / "cut")["step_count"]) == done
    last = start(name, small_mlp, rows, seed=9, steps=7, alive_after=3)
    run(last, rows, tmp_path / "cut", max_time="00:00:00:00")  # the last step is done: nothing is left to stop
    assert_same_bits(state(last), state(whole))


def test_a_run_within_its_time_limit_is_whole(start, small_mlp, rows, tmp_path):
    method = start("spd", small_mlp, rows, steps=20)
    run(method, rows, tmp_path, max_time="00:01:00:00")
    assert int(checkpoint_of(tmp_path)["step_count"]) == 20


def test_a_finished_run_started_again_takes_no_further_step(start, small_mlp, rows, tmp_path):
    first, again = (start("spd", small_mlp, rows, seed=seed, steps=20) for seed in (0, 1))
    run(first, rows, tmp_path)
    run(again, rows, tmp_path)
    assert_same_bits(state(again), state(first))


def test_sigterm_ends_a_run_after_the_step_it_came_in_with_a_checkpoint(start, small_mlp, rows, tmp_path, monkeypatch):
    whole = start("spd", small_mlp, rows, steps=50)
    run(whole, rows, tmp_path / "whole")
    taken = training.take_step

    def interrupted(method, optimizer, batch, step, dtype):
        if step == 27:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(method, optimizer, batch, step, dtype)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training, "take_step", interrupted)
    with pytest.raises(SystemExit) as ending:
        run(start("spd", small_mlp, rows, steps=50), rows, tmp_path / "cut")
    assert ending.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert int(checkpoint_of(tmp_path / "cut")["step_count"]) == 28
    monkeypatch.undo()
    resumed = start("spd", small_mlp, rows, seed=9, steps=50)
    run(resumed, rows, tmp_path / "cut")
    assert_same_bits(state(resumed), state(whole))


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(start, small_mlp, rows, tmp_path, monkeypatch, name):
    monkeypatch.setattr(training, "CHECKPOINT_ROUNDS", 1)
    monkeypatch.setattr(training, "INNER_STEPS", 1)
    method = start(name, small_mlp, rows, steps=200, learning_rate=1e12)
    with pytest.raises(DivergedError, match=r"'[\w.]+' is not finite (at|after) step \d+; lower") as stopped:
        run(method, rows, tmp_path)
    kept = checkpoint_of(tmp_path)
    assert all(bool(value.isfinite().all()) for value in kept.values() if value.is_floating_point())
    assert 0 < int(kept["step_count"]) <= int(str(stopped.value).split("step ")[1].split(";")[0])


def test_bfloat16_is_a_precision_of_the_trainer(start, small_mlp, rows, tmp_path):
    runs = []
    for precision in ("32-true", "bf16-mixed"):
        method = start("apd", small_mlp, rows, steps=40)
        run(method, rows, tmp_path / precision, precision=precision)
        runs.append(method.model.V[0].detach())
    assert runs[1].dtype == torch.float32
    assert not torch.equal(*runs)
    torch.testing.assert_close(*runs, rtol=0.1, atol=0.05)
