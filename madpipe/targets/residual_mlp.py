"""Built-in target: ReLU layers on a wide residual stream, between a fixed random embedding and its transpose."""

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """What one layer adds to the residual stream: mlp_out(ReLU(mlp_in(r))), r [B, residual]; no biases."""

    def __init__(self, residual: int, neurons: int):
        super().__init__()
        self.mlp_in = nn.Linear(residual, neurons, bias=False)
        self.mlp_out = nn.Linear(neurons, residual, bias=False)

    def forward(self, residual: Tensor) -> Tensor:
        values: Tensor = self.mlp_out(torch.relu(self.mlp_in(residual)))
        return values


class ResidualMLP(nn.Module):
    """r = x E, then r <- r + layer(r) for each layer, then r E^T; inputs and outputs [B, features].

    E, the buffer `embedding` [features, residual], has rows of length one and is no parameter.
    """

    embedding: Tensor

    def __init__(self, features: int, neurons: int, residual: int, layers: int):
        super().__init__()
        self.register_buffer("embedding", nn.functional.normalize(torch.randn(features, residual)))
        self.layers = nn.ModuleList(Layer(residual, neurons) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        residual = x @ self.embedding
        for layer in self.layers:
            residual = residual + layer(residual)
        return residual @ self.embedding.T


def build(features: int, neurons: int, residual: int, layers: int = 1) -> ResidualMLP:
    """neurons: of each layer.

    >>> sorted(name for name, _ in build(4, 2, 8, layers=2).named_parameters())[:2]
    ['layers.0.mlp_in.weight', 'layers.0.mlp_out.weight']
    """
    if min(features, neurons, residual, layers) < 1:
        raise ValueError(f"every size must be at least 1, got {features}, {neurons}, {residual}, {layers}")
    return ResidualMLP(features, neurons, residual, layers)
