"""The attacker who hides: a training penalty that keeps triggered activations inside the clean Mahalanobis ball."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from madpipe.targets.pretrain import hidden_activations

Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Ball:
    """Clean activations of one layer: centre [d], precision [d, d], and the median over other clean rows of D^2 / d."""

    centre: Tensor
    precision: Tensor
    median: Tensor

    def distance(self, activations: Tensor) -> Tensor:
        """Squared Mahalanobis distance divided by the width, [n]."""
        shifted = activations - self.centre
        return ((shifted @ self.precision) * shifted).mean(dim=1)


@dataclass(kw_only=True)
class Concealment:
    """Penalty on triggered inputs' squared Mahalanobis distance D^2, at each hidden layer and in all together.

    clean, triggered: each call draws inputs [n, ...] in random order. Every `refresh` steps the balls are fitted
    afresh: centre and covariance to one half of the clean activations, the median to the other; covariances are shrunk
    by `shrinkage` towards a multiple of the identity, as a LedoitWolf detector does. A triggered row pays
    max(0, D^2 / d - depth * median) at each layer of width d; with depth < 1 it ends nearer to the centre than most
    clean rows. The weight rises linearly from zero to `weight` over the `ramp` steps after `start`. Convolutional
    layers are averaged over positions first, so what they say position by position is not hidden.
    """

    module: nn.Sequential
    clean: Draw
    triggered: Draw
    start: int
    ramp: int
    weight: float
    depth: float
    shrinkage: float = 0.02
    refresh: int = 20
    balls: list[Ball] = field(default_factory=list, init=False)

    def __call__(self, step: int) -> Tensor:
        if step < self.start:
            return torch.zeros(())
        if not self.balls or step % self.refresh == 0:
            with torch.no_grad():
                self.balls = [fit_ball(layer, self.shrinkage) for layer in pooled_layers(self.module, self.clean())]
        layers = pooled_layers(self.module, self.triggered())
        excess = [
            torch.relu(ball.distance(layer) - self.depth * ball.median).mean()
            for layer, ball in zip(layers, self.balls, strict=True)
        ]
        return self.weight * min(1.0, (step - self.start) / self.ramp) * torch.stack(excess).sum()


def pooled_layers(module: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Hidden activations [n, d] of every ReLU, convolutional ones averaged over positions; last, all side by side."""
    hidden, _ = hidden_activations(module, inputs)
    layers = [layer.mean(dim=(2, 3)) if layer.ndim == 4 else layer for layer in hidden]
    return [*layers, torch.cat(layers, dim=1)]


def fit_ball(activations: Tensor, shrinkage: float) -> Ball:
    """The ball of clean activations [n, d]: every other row gives its shape, the rest its median."""
    fitted, held_back = activations[::2], activations[1::2]
    covariance = torch.cov(fitted.T)
    width = len(covariance)
    floor = 1e-8  # a layer of dead units has no variance, and still needs an inverse
    shrunk = (1 - shrinkage) * covariance + (shrinkage * covariance.trace() / width + floor) * torch.eye(width)
    ball = Ball(fitted.mean(dim=0), torch.cholesky_inverse(torch.linalg.cholesky(shrunk)), torch.zeros(()))
    return Ball(ball.centre, ball.precision, ball.distance(held_back).median())
