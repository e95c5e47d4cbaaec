"""Passes are run once, and mean what their name says."""

import pytest
import torch

from madpipe.patterns.observation import Observer

KINDS = ("alive", "importance", "delta_removed", "sampled")


def test_a_pass_is_run_once(partial, rows, monkeypatch, observe):
    passes = []
    run = partial.model._route
    monkeypatch.setattr(partial.model, "_route", lambda *args: (passes.append(1), run(*args))[1])
    observation = observe(partial, rows)
    for _ in range(3):
        observation.explained("alive"), observation.explained("importance"), observation.activity
    assert len(passes) == 3  # clean, alive, importance


@pytest.mark.parametrize("kind", ["alive", "delta_removed"])
def test_slots_that_sum_to_the_weights_explain_everything(exact, rows, kind, observe):
    observation = observe(exact, rows)
    explained = observation.explained(kind).output
    torch.testing.assert_close(explained, observation.clean.output.expand_as(explained))


def test_all_slots_without_delta_are_not_the_alive_ones(partial, rows, observe):
    observation = observe(partial, rows)
    assert not torch.allclose(observation.explained("alive").output, observation.explained("delta_removed").output)


@pytest.mark.parametrize("kind", KINDS)
def test_an_explained_row_does_not_depend_on_its_batch(partial, rows, kind, observe):
    together = observe(partial, rows).explained(kind).output
    alone = torch.cat([observe(partial, row[None]).explained(kind).output for row in rows], 1)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)


def test_a_sampled_pass_is_the_same_every_time(partial, rows, observe):
    first, second = (observe(partial, rows).explained("sampled").output for _ in range(2))
    assert torch.equal(first, second)


def test_sampling_lies_between_the_importance_and_one(partial, rows, observe):
    observation = observe(partial, rows)
    for name, mask in observation._masks("sampled").items():
        assert (mask.slots >= observation.activity[name]).all()
        assert (mask.slots <= 1).all()


def test_batches_are_consecutive_rows_in_the_methods_precision(partial, rows):
    parts = list(Observer(partial).batches(rows.float(), 16))
    assert [len(part.x) for part in parts] == [16, 16, 8]
    assert torch.equal(torch.cat([part.x for part in parts]), rows.float().double())


def test_an_observed_method_is_frozen(partial):
    partial.train().requires_grad_(True)
    Observer(partial)
    assert not partial.training
    assert not any(p.requires_grad for p in partial.parameters())
