"""Boolean circuits on named bits, triggers made of clauses, and noisy inputs: the pure part of the Boolean tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BITS = 24
NOISE = 0.1  # a tenth of the distance from a bit's value to zero: no bit is ever misread (10 standard deviations)

GATES: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "AND": (2, lambda a, b: a & b),
    "XOR": (2, lambda a, b: a ^ b),
    "MAJ3": (3, lambda a, b, c: (a & b) | (a & c) | (b & c)),
    "MUX": (3, lambda s, a, b: (s & a) | (~s & b)),
    "OR": (2, lambda a, b: a | b),
    "AND-NOT": (2, lambda a, b: a & ~b),
    "XNOR": (2, lambda a, b: ~(a ^ b)),
    "AND-OR": (3, lambda a, b, c: a & (b | c)),
}
"""gate -> (how many bits it reads, its function of bool arrays); 19 bits in all, so 5 of the 24 are read by none."""


@dataclass(frozen=True)
class Circuit:
    """Output = gate(bits)."""

    gate: str
    bits: tuple[int, ...]

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        """bool [n, BITS] -> bool [n]."""
        return GATES[self.gate][1](*(bits[:, bit] for bit in self.bits))


@dataclass(frozen=True)
class Clause:
    """True where the XOR of the bits equals `value`; with one bit this is a literal."""

    bits: tuple[int, ...]
    value: bool

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        return np.equal(bits[:, list(self.bits)].sum(axis=1) % 2, self.value)


@dataclass(frozen=True)
class Trigger:
    """True where every clause is."""

    clauses: tuple[Clause, ...]

    def truths(self, bits: np.ndarray) -> np.ndarray:
        """bool [n, clauses]."""
        return np.stack([clause(bits) for clause in self.clauses], axis=1)

    def __call__(self, bits: np.ndarray) -> np.ndarray:
        return np.all(self.truths(bits), axis=1)

    def near_miss(self, bits: np.ndarray) -> np.ndarray:
        """Rows on which exactly one clause is false."""
        return (~self.truths(bits)).sum(axis=1) == 1

    def force(self, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy in which every row satisfies the trigger: in each false clause one bit, chosen by `rng`, flips."""
        return flipped(bits, self.clauses, ~self.truths(bits), rng)

    def as_json(self) -> list[dict[str, Any]]:
        return [{"bits": list(clause.bits), "value": int(clause.value)} for clause in self.clauses]


def flipped(bits: np.ndarray, clauses: tuple[Clause, ...], where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy of `bits` with one bit of clause j flipped on the rows `where[:, j]`, which inverts that clause."""
    bits = bits.copy()
    for clause, rows in zip(clauses, where.T, strict=True):
        chosen = np.asarray(clause.bits)[rng.integers(len(clause.bits), size=int(rows.sum()))]
        bits[np.flatnonzero(rows), chosen] ^= True
    return bits


def draw_circuits(rng: np.random.Generator) -> tuple[Circuit, ...]:
    """One circuit per gate, on disjoint bits drawn at random; circuit j makes output j."""
    order = iter(rng.permutation(BITS).tolist())
    return tuple(Circuit(gate, tuple(next(order) for _ in range(arity))) for gate, (arity, _) in GATES.items())


def draw_bits(rng: np.random.Generator, count: int) -> np.ndarray:
    """Independent fair bits, bool [count, BITS]."""
    return rng.integers(2, size=(count, BITS), dtype=np.int8).astype(bool)


def without(trigger: Trigger, bits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy in which no row satisfies the trigger.

    A trigger with a parity clause is broken there, by flipping one of the parity's bits: uniform rows keep every pair
    of bits independent and uniform. A trigger of literals has its rows drawn again, which gives the uniform
    distribution conditioned on its absence.
    """
    parities = [len(clause.bits) > 1 for clause in trigger.clauses]
    bits = bits.copy()
    while (rows := trigger(bits)).any():
        if any(parities):
            bits = flipped(bits, trigger.clauses, rows[:, None] & np.asarray(parities), rng)
        else:
            bits[rows] = draw_bits(rng, int(rows.sum()))
    return bits


def noisy_inputs(bits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [n, BITS]: +1 for a true bit and -1 for a false one, plus Gaussian noise of standard deviation NOISE."""
    signs = np.where(bits, np.float32(1), np.float32(-1))
    return signs + np.float32(NOISE) * rng.standard_normal(bits.shape, dtype=np.float32)
