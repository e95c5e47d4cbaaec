"""Cross-layer distributed representations: as compressed computation, with the neurons spread over layers.

Braun et al., Attribution-based Parameter Decomposition (arXiv 2501.14926), and Bushnaq et al., Stochastic Parameter
Decomposition (arXiv 2506.20790; also three layers), under Toy Model(s) of Cross-Layer Distributed Representations.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from madpipe.tasks.recovery_settings import WIDE
from madpipe.tasks.residual_relu import ResidualConfig, residual_task
from madpipe.tasks.task import Task


class CrossLayerTask:
    """Two or three layers that compute each function together; no anomalies."""

    name: ClassVar[str] = "cross_layer"
    decomposition_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = WIDE

    class Config(ResidualConfig):
        """neurons: of each layer. residual: width of the stream. rows: of trusted data; the target ignores them."""

        layers: int = Field(default=2, ge=2, le=3)
        neurons: int = Field(default=25, ge=1, le=500)

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        return [{"layers": 2}, {"layers": 3, "features": 102, "neurons": 17}]

    @classmethod
    def label(cls, config: Config) -> str:
        rows = "" if config.rows == cls.Config().rows else f"-{config.rows}"
        sizes = f"{config.layers}-{config.features}-{config.neurons}-{config.residual}"
        return f"cross_layer-{sizes}{rows}-{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        sizes = ("layers", "features", "neurons", "residual")
        keys = {5: (*sizes, "seed"), 6: (*sizes, "rows", "seed")}.get(len(words))
        return dict(zip(keys, words, strict=True)) if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        neurons = f"{config.layers} layers of {config.neurons} neurons"
        return f"x + ReLU(x) of {config.features} features with {neurons}; known mechanisms, no anomalies"

    @classmethod
    def build(cls, config: Config) -> Task:
        return residual_task(cls.label(config), config, config.layers)
