"""Residual networks that compute y = x + ReLU(x) for more sparse features than they have neurons: training and truth.

The embedding E [F, D] is fixed, and every weight matters only through what it does to features. So training runs in
feature coordinates, and is exact: with A_l = E W_in [F, N] and W_out = B_l E of layer l, the stream is c E [D] with

    c_0 = x,   c_l = c_(l-1) + ReLU(c_(l-1) A_l) B_l,   y = c_L G,   G = E E^T.

G is not the identity, since random directions overlap; what overlaps is part of the task. Of all W_in with the same A_l
the shortest is taken, W_in = E^T G^-1 A_l: it reads nothing but features.
"""

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor, nn

from madpipe.targets import residual_mlp
from madpipe.targets.load import Target
from madpipe.targets.pretrain import build_seeded, pretrain
from madpipe.tasks.sparse_features import SparseFeatures
from madpipe.tasks.task import Task, stream, trained_target
from madpipe.tasks.without_anomalies import feature_parts, task_without_anomalies

PROBABILITY = 0.01  # of a feature to be on, as in APD and SPD
STEPS, BATCH = 4000, 1024  # twice as many rows lower the loss by 1 %
LEARNING_RATE = (
    3e-2  # in feature coordinates; the papers' 3e-3 is for those of the stream, where a step reaches further
)
START = 0.05  # standard deviation of initial weights; from 0.02 to 0.1 the loss is the same to 1 %
LOSS_ROWS = 50_000


class ResidualConfig(BaseModel):
    """neurons: of each layer. residual: width of the stream. rows: of trusted data; the target ignores them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: int = Field(default=100, ge=2, le=500)
    neurons: int = Field(default=50, ge=1, le=500)
    residual: int = Field(default=1000, ge=2, le=5000)
    rows: int = Field(default=20_000, ge=20, le=1_000_000)
    seed: int = Field(default=0, ge=0)

    @field_validator("residual")
    @classmethod
    def holds_all_features(cls, residual: int, values: ValidationInfo) -> int:
        if residual < values.data.get("features", 0):
            raise ValueError(f"needs a dimension for each of {values.data['features']} features")
        return residual

    @property
    def inputs(self) -> SparseFeatures:
        return SparseFeatures(self.features, PROBABILITY, low=-1.0)


def residual_task(name: str, config: ResidualConfig, layers: int) -> Task:
    target = train_target(config, layers)
    facts = measured(target.module, config, layers)
    return task_without_anomalies(name, target, config.inputs.rows, config, known_mechanisms(config, layers), facts)


class FeatureSpace(nn.Module):
    """The network in feature coordinates: `reading` holds each A_l [F, N], `writing` each B_l [N, F]."""

    def __init__(self, config: ResidualConfig, layers: int, overlaps: Tensor):
        super().__init__()
        features, neurons = config.features, config.neurons
        self.reading = nn.ParameterList(START * torch.randn(features, neurons) for _ in range(layers))
        self.writing = nn.ParameterList(START * torch.randn(neurons, features) for _ in range(layers))
        self.overlaps = overlaps

    def forward(self, x: Tensor) -> Tensor:
        for A, B in zip(self.reading, self.writing, strict=True):
            x = x + torch.relu(x @ A) @ B
        return x @ self.overlaps


def label(x: Tensor) -> Tensor:
    return x + torch.relu(x)


def train_target(config: ResidualConfig, layers: int) -> Target:
    kwargs = {**config.model_dump(include={"features", "neurons", "residual"}), "layers": layers}
    seed = int(stream(config.seed, "embedding").integers(2**31))
    module = build_seeded(lambda: residual_mlp.build(**kwargs), seed)
    write_weights(train_features(config, layers, module.embedding), module)
    return trained_target(module, "regression", "madpipe.targets.residual_mlp:build", kwargs)


def train_features(config: ResidualConfig, layers: int, embedding: Tensor) -> FeatureSpace:
    seed = int(stream(config.seed, "weights").integers(2**31))
    space = build_seeded(lambda: FeatureSpace(config, layers, embedding @ embedding.T), seed)
    batches = config.inputs.batches(BATCH, label, stream(config.seed, "training"))
    pretrain(space, batches, nn.functional.mse_loss, steps=STEPS, learning_rate=LEARNING_RATE)
    return space


@torch.no_grad()
def write_weights(space: FeatureSpace, module: residual_mlp.ResidualMLP) -> None:
    """W_in = E^T G^-1 A and W_out = B E, in double precision."""
    embedding = module.embedding.double()
    shortest = torch.linalg.solve(embedding @ embedding.T, embedding)  # G^-1 E, [F, D]
    weights = {"embedding": module.embedding}
    for i, (A, B) in enumerate(zip(space.reading, space.writing, strict=True)):
        weights[f"layers.{i}.mlp_in.weight"] = A.double().T @ shortest
        weights[f"layers.{i}.mlp_out.weight"] = (B.double() @ embedding).T
    module.load_state_dict(weights)


def known_mechanisms(config: ResidualConfig, layers: int) -> dict[str, Any]:
    """Each layer reads every feature by a mechanism of its own, and writes by a single one of full rank.

    The latter is what SPD finds (arXiv 2506.20790, Toy Model of Compressed Computation), unlike APD before it.
    """
    reading = [f"layers.{layer}.mlp_in" for layer in range(layers)]
    rank = min(config.neurons, config.features)
    return {
        "features": config.features,
        "parts": [part for site in reading for part in feature_parts(site, "read", config.features)],
        "blocks": [{"site": f"layers.{layer}.mlp_out", "rank": rank} for layer in range(layers)],
        "reading": dict.fromkeys(reading, "embedding"),
    }


def measured(module: nn.Module, config: ResidualConfig, layers: int) -> dict[str, float]:
    """Mean squared errors on fresh rows, outputs of a lone feature of 1 (which should be 2), norms of rows of E W_in.

    naive_loss: of a network whose every neuron computes the ReLU of one feature, exactly; the other features have none.
    no_layers_loss: of x G alone. Norms are those of the mechanisms: a layer may hardly read some of the features.
    """
    x = torch.from_numpy(config.inputs.rows(LOSS_ROWS, stream(config.seed, "loss")))
    state = module.state_dict()
    embedding = state["embedding"]
    passed_on, relu = x @ embedding @ embedding.T, torch.relu(x)
    relu[:, config.neurons * layers :] = 0
    mse = nn.functional.mse_loss
    own = module(torch.eye(config.features)).diagonal()
    read = torch.stack([embedding @ state[f"layers.{layer}.mlp_in.weight"].T for layer in range(layers)])
    norms = read.norm(dim=2)
    return {
        "loss": float(mse(module(x), label(x))),
        "naive_loss": float(mse(passed_on + relu, label(x))),
        "no_layers_loss": float(mse(passed_on, label(x))),
        "own_output_min": float(own.min()),
        "own_output_max": float(own.max()),
        "feature_norm_min": float(norms.min()),
        "feature_norm_max": float(norms.max()),
    }
