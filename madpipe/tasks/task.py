"""The value every benchmark task gives: a target, trusted inputs and labelled test inputs."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel
from torch import nn

from madpipe.targets.load import OutputKind, Target, weights_digest


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """n trusted inputs, m test inputs; arrays of inputs are float32 [rows, ...], token ids too.

    trusted: never holds the anomaly. untrusted: unlabelled mix for offline detectors, None where there is none.
    is_anomalous: bool [m]; positives are only inputs on which the anomalous behaviour happens.
    subsets: named bool [m] over the test rows. agree: inputs on which the anomalous mechanism runs though the normal
    output is the same; kept out of `test` so that the main figures do not include them. agree_subsets: named bool over
    its rows.
    mechanisms: ground truth that JSON can hold. facts: measured on the target (clean_accuracy, attack_success).
    """

    name: str
    target: Target
    sites: tuple[str, ...]
    trusted: np.ndarray
    untrusted: np.ndarray | None
    test: np.ndarray
    is_anomalous: np.ndarray
    subsets: dict[str, np.ndarray] = field(default_factory=dict)
    agree: np.ndarray | None = None
    agree_subsets: dict[str, np.ndarray] = field(default_factory=dict)
    mechanisms: dict[str, Any] | None = None
    facts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = len(self.test)
        assert self.is_anomalous.shape == (rows,), (self.is_anomalous.shape, rows)
        assert all(mask.shape == (rows,) for mask in self.subsets.values()), {
            k: v.shape for k, v in self.subsets.items()
        }
        assert all(self.agree is not None and len(mask) == len(self.agree) for mask in self.agree_subsets.values())


class TaskFamily(Protocol):
    """What a class in the TASKS table offers; `Config` is pydantic, frozen, refuses unknown keys and has a `seed`.

    Where it has `scored: Scored` too, `build` gives the task that scores changed outputs, with agree rows, whatever it
    says: `build_task` makes the other of it.
    It may have `decomposition_defaults`, method name -> settings: what a config of this task decomposes with, unless
    the config says otherwise (`madpipe config show` prints them).
    And `shifted_subsets`: names of subsets whose normal rows trusted data hold in another share, or not at all.
    """

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        """The configs worth listing, each without `name` and `seed`."""

    @classmethod
    def label(cls, config: Any) -> str:
        """The task's name, for example "digits-conj-cnn-0"."""

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        """The config values in a label's words after the first; None where they are not of this family's form."""

    @classmethod
    def describe(cls, config: Any) -> str:
        """One line."""

    @classmethod
    def build(cls, config: Any) -> Task:
        """Trains the target and draws the data; the same config gives the same bits on a CPU."""


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A random stream of its own for each purpose, so that drawing more of one thing never moves another."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def trained_target(module: nn.Module, output: OutputKind, factory: str, kwargs: dict[str, Any]) -> Target:
    """`module` frozen, as the target that `factory`, one of madpipe's own, builds from `kwargs`."""
    module.eval().requires_grad_(False)
    return Target(module, output, factory, kwargs, None, weights_digest(module.state_dict()))
