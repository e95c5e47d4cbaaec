"""The toy model of superposition: more sparse features than hidden dimensions, each with a direction of its own.

Elhage et al., Toy Models of Superposition (2022), in the sizes and with the input distribution on which APD
(arXiv 2501.14926) and SPD (arXiv 2506.20790) are measured. One mechanism a feature at each of `linear1` and `linear2`;
the identity between them, where there is one, is a single mechanism of full rank.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn

from madpipe.errors import ConfigError
from madpipe.targets import superposition
from madpipe.targets.load import Target
from madpipe.targets.pretrain import build_seeded, pretrain
from madpipe.tasks.recovery_settings import RECOVERY
from madpipe.tasks.sparse_features import SparseFeatures
from madpipe.tasks.task import Task, stream, trained_target
from madpipe.tasks.without_anomalies import feature_parts, task_without_anomalies

PROBABILITY = 0.05  # of a feature to be on, as in APD and SPD
STARTS = 20  # initial weights tried; one is enough for the listed sizes, nearly always
STEPS, BATCH = 3000, 1024  # 2,000 steps reach the same losses
LOSS_ROWS = 20_000


class SuperpositionTask:
    """A network that squeezes sparse features through few dimensions and gives them back; no anomalies."""

    name: ClassVar[str] = "superposition"
    decomposition_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = RECOVERY

    class Config(BaseModel):
        """rows: of trusted data; the target ignores them. identity: only adds a layer, the weights stay the same."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        features: int = Field(default=5, ge=3, le=200)
        hidden: int = Field(default=2, ge=2, le=100)
        identity: bool = False
        rows: int = Field(default=20_000, ge=20, le=1_000_000)
        seed: int = Field(default=0, ge=0)

        @field_validator("hidden")
        @classmethod
        def below_features(cls, hidden: int, values: ValidationInfo) -> int:
            if hidden >= values.data.get("features", hidden + 1):
                raise ValueError(
                    f"superposition needs fewer hidden dimensions than features ({values.data['features']})"
                )
            return hidden

    @classmethod
    def variants(cls) -> list[dict[str, Any]]:
        sizes = [{"features": 5, "hidden": 2}, {"features": 40, "hidden": 10}]
        return [{**size, "identity": identity} for size in sizes for identity in (False, True)]

    @classmethod
    def label(cls, config: Config) -> str:
        identity = "-id" if config.identity else ""
        rows = "" if config.rows == cls.Config().rows else f"-{config.rows}"
        return f"superposition-{config.features}-{config.hidden}{identity}{rows}-{config.seed}"

    @classmethod
    def parse(cls, words: list[str]) -> dict[str, Any] | None:
        identity = words[2:3] == ["id"]
        numbers = words[:2] + words[3 if identity else 2 :]
        keys = {3: ("features", "hidden", "seed"), 4: ("features", "hidden", "rows", "seed")}.get(len(numbers))
        return {**dict(zip(keys, numbers, strict=True)), "identity": identity} if keys else None

    @classmethod
    def describe(cls, config: Config) -> str:
        between = ", with an identity between" if config.identity else ""
        return (
            f"{config.features} sparse features in {config.hidden} dimensions{between}; known mechanisms, no anomalies"
        )

    @classmethod
    def build(cls, config: Config) -> Task:
        tied, starts = train_tied(config)
        facts = measured(tied, config) | {"starts": float(starts)}
        return task_without_anomalies(
            cls.label(config), untied(tied, config), inputs(config).rows, config, known_mechanisms(config), facts
        )


class Tied(nn.Module):
    """ReLU(x W W^T + b) with W [F, hidden], b [F]: what is trained."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(features, hidden)))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight @ self.weight.T + self.bias)


def inputs(config: SuperpositionTask.Config) -> SparseFeatures:
    return SparseFeatures(config.features, PROBABILITY, low=0.0)


def train_tied(config: SuperpositionTask.Config) -> tuple[Tied, int]:
    """(the first trained network with every feature alive, how many starts it took).

    A feature that starts between others may stay there and die, or share another's direction.
    """
    for start in range(STARTS):
        module = trained_from(config, start)
        if all_alive(module):
            return module, start + 1
    raise ConfigError(
        f"task: none of {STARTS} starts kept {config.features} features apart in {config.hidden} dimensions; "
        "ask for fewer features, more hidden dimensions or another seed."
    )


def trained_from(config: SuperpositionTask.Config, start: int) -> Tied:
    seed = int(stream(config.seed, f"weights {start}").integers(2**31))
    module = build_seeded(lambda: Tied(config.features, config.hidden), seed)
    batches = inputs(config).batches(BATCH, lambda x: x, stream(config.seed, f"training {start}"))
    loss = nn.functional.mse_loss
    pretrain(module, batches, loss, steps=STEPS, learning_rate=5e-3, weight_decay=0.01)  # weight decay: the papers'
    return module


def all_alive(module: Tied) -> bool:
    """Whether every feature has a direction of at least half the largest norm, gives back at least half of a lone 1,
    and then moves every other output by at most half of its own.
    """
    norms = module.weight.norm(dim=1)
    own, others = lone_outputs(module)
    return bool((norms >= norms.max() / 2).all() and (own >= 0.5).all() and (others <= own / 2).all())


def lone_outputs(module: Tied) -> tuple[Tensor, Tensor]:
    """(own output [F], largest other output [F]) where one feature is 1 and all others are 0."""
    outputs = module(torch.eye(len(module.bias)))
    return outputs.diagonal(), (outputs - outputs.diag().diag()).max(dim=1).values


def untied(tied: Tied, config: SuperpositionTask.Config) -> Target:
    """The same function with a weight of its own at each layer."""
    module = superposition.build(config.features, config.hidden, config.identity)
    weights = {"linear1.weight": tied.weight.T, "linear2.weight": tied.weight, "linear2.bias": tied.bias}
    module.load_state_dict(module.state_dict() | weights)
    kwargs = config.model_dump(include={"features", "hidden", "identity"})
    return trained_target(module, "regression", "madpipe.targets.superposition:build", kwargs)


def known_mechanisms(config: SuperpositionTask.Config) -> dict[str, Any]:
    return {
        "features": config.features,
        "parts": [
            *feature_parts("linear1", "read", config.features),
            *feature_parts("linear2", "write", config.features),
        ],
        "blocks": [{"site": "hidden", "rank": config.hidden}] if config.identity else [],
    }


def measured(tied: Tied, config: SuperpositionTask.Config) -> dict[str, float]:
    """Norms of the features' directions, outputs of lone features, and the mean squared error on fresh rows."""
    norms = tied.weight.norm(dim=1)
    own, others = lone_outputs(tied)
    x = torch.from_numpy(inputs(config).rows(LOSS_ROWS, stream(config.seed, "loss")))
    return {
        "feature_norm_min": float(norms.min()),
        "feature_norm_max": float(norms.max()),
        "own_output_min": float(own.min()),
        "other_output_max": float(others.max()),
        "loss": float(nn.functional.mse_loss(tied(x), x)),
    }
