"""Compressed computation: one layer of 50 neurons computes x + ReLU(x) for 100 sparse features.

Braun et al., Attribution-based Parameter Decomposition (arXiv 2501.14926), and Bushnaq et al., Stochastic Parameter
Decomposition (arXiv 2506.20790), both under Toy Model of Compressed Computation.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from madpipe.tasks.recovery_settings import WIDE
from madpipe.tasks.residual_relu import ResidualConfig, residual_task
from madpipe.tasks.task import Task


class CompressedComputationTask:
    """More functions than neurons; no anomalies."""

    name: ClassVar[str] = "compressed_computation"
    decomposition_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = WIDE

    class Config(ResidualConfig):
        """residual: width of the stream. rows: of trusted data; the target ignores them."""

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{}]

    @classmethod
    def label(cls, config: Config) -> str:
        rows = "" if config.rows == cls.Config().rows else f"-{config.rows}"
        return f"compressed_computation-{config.features}-{config.neurons}-{config.residual}{rows}-{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        sizes = ("features", "neurons", "residual")
        keys = {4: (*sizes, "seed"), 5: (*sizes, "rows", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        return (
            f"x + ReLU(x) of {config.features} features with {config.neurons} neurons; known mechanisms, no anomalies"
        )

    @classmethod
    def build(cls, config: Config) -> Task:
        return residual_task(cls.label(config), config, layers=1)
