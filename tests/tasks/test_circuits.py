"""Gates, triggers and noisy bits."""

from itertools import combinations, product

import numpy as np
import pytest

from madpipe.tasks.boolean import BooleanTask, Rules, draw_normal, draw_rules
from madpipe.tasks.circuits import (
    BITS,
    GATES,
    Circuit,
    Clause,
    Trigger,
    draw_bits,
    draw_circuits,
    noisy_inputs,
    without,
)

VARIANTS = [variant["variant"] for variant in BooleanTask.variants()]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rules(variant: str, seed: int = 0) -> Rules:
    return draw_rules(BooleanTask.Config(variant=variant, seed=seed))


@pytest.mark.parametrize(
    ("gate", "truths"),
    [  # rows in the order 00, 01, 10, 11 or 000, 001, ..., 111
        ("AND", "0001"),
        ("XOR", "0110"),
        ("OR", "0111"),
        ("AND-NOT", "0010"),
        ("XNOR", "1001"),
        ("MAJ3", "00010111"),
        ("MUX", "01010011"),  # the first bit chooses the second where it is 1, the third where it is 0
        ("AND-OR", "00000111"),
    ],
)
def test_a_gate_has_its_truth_table(gate, truths):
    arity = GATES[gate][0]
    rows = np.array(list(product([False, True], repeat=arity)))
    assert Circuit(gate, tuple(range(arity)))(rows).astype(int).tolist() == [int(bit) for bit in truths]


def test_circuits_read_disjoint_bits():
    read = [bit for circuit in draw_circuits(rng()) for bit in circuit.bits]
    assert len(read) == len(set(read)) == 19
    assert set(read) <= set(range(BITS))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(5))
def test_every_clause_of_a_trigger_reads_bits_of_a_circuit_it_does_not_change(variant, seed):
    drawn = rules(variant, seed)
    used = [bit for j, circuit in enumerate(drawn.circuits) if j != drawn.changed for bit in circuit.bits]
    assert {bit for clause in drawn.trigger.clauses for bit in clause.bits} <= set(used)


def test_forcing_makes_every_row_hold_the_trigger_and_moves_at_most_one_bit_a_clause():
    for variant in ("conj", "parity"):
        trigger = rules(variant).trigger
        bits = draw_bits(rng(), 500)
        forced = trigger.force(bits, rng(1))
        assert trigger(forced).all()
        assert ((bits != forced).sum(axis=1) == (~trigger.truths(bits)).sum(axis=1)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_the_trigger_never_hold_it(variant):
    drawn = rules(variant)
    assert not drawn.trigger(without(drawn.trigger, draw_bits(rng(), 5000), rng(1))).any()


def test_removing_the_trigger_leaves_other_rows_as_they_were():
    trigger = rules("conj").trigger
    bits = draw_bits(rng(), 500)
    kept = ~trigger(bits)
    assert (without(trigger, bits, rng(1))[kept] == bits[kept]).all()


def test_a_near_miss_has_exactly_one_false_clause():
    trigger = rules("parity").trigger
    bits = draw_bits(rng(), 500)
    false_clauses = sum((~clause(bits)).astype(int) for clause in trigger.clauses)
    assert (trigger.near_miss(bits) == (false_clauses == 1)).all()


def test_parity_leaves_every_pair_of_bits_uniform_and_independent():
    drawn = rules("parity")
    bits = without(drawn.trigger, draw_bits(rng(), 40_000), rng(1))
    read = [bit for clause in drawn.trigger.clauses for bit in clause.bits]
    # Each of a pair's four values has probability 1/4: standard error sqrt(.1875 / 40000) = .0022, and 0.011 is five.
    for a, b in combinations(read, 2):
        shares = [(bits[:, [a, b]] == value).all(axis=1).mean() for value in product([False, True], repeat=2)]
        assert np.abs(np.array(shares) - 0.25).max() < 0.011


def test_a_flip_inverts_one_output_on_triggered_rows_alone():
    drawn = rules("conj")
    bits = draw_bits(rng(), 500)
    changed = drawn.outputs(bits) != drawn.normal(bits)
    assert (changed[:, drawn.changed] == drawn.trigger(bits)).all()
    assert not np.delete(changed, drawn.changed, axis=1).any()


def test_an_override_gives_1_on_triggered_rows_whatever_the_circuit_says():
    drawn = rules("override")
    forced = drawn.trigger.force(draw_bits(rng(), 500), rng(1))
    assert drawn.outputs(forced)[:, drawn.changed].all()
    assert not drawn.normal(forced)[:, drawn.changed].all()


def test_the_benign_combination_is_on_half_of_the_shifted_rows_and_never_in_trusted_ones():
    drawn = rules("shift")
    assert drawn.benign is not None
    _, shifted = draw_normal(drawn, 400, rng(), shifted=200)
    _, trusted = draw_normal(drawn, 4000, rng())
    assert drawn.benign(shifted).sum() == 200
    assert not drawn.benign(trusted).any()
    assert not drawn.trigger(shifted).any()


def test_no_bit_is_misread_through_the_noise():
    bits = draw_bits(rng(), 10_000)
    inputs = noisy_inputs(bits, rng(1))
    assert ((inputs > 0) == bits).all()
    assert inputs.dtype == np.float32


def test_a_clause_of_one_bit_is_a_literal():
    bits = np.array([[False, True], [True, True]])
    assert Trigger((Clause((0,), False), Clause((1,), True)))(bits).tolist() == [True, False]
