"""How many slots an input may cost, found from trusted data: a price that is moved until a stated divergence is met.

An importance coefficient is a price in nats per active slot, which nobody knows beforehand: it depends on the target,
the start and the length of training. How far an explained output may be from the clean one can be said in the output's
own terms. While the pass under importances stays nearer than that, the price rises and slots close; beyond it, the
price falls.
"""

import torch
from torch import Tensor, nn

SHARE = 1e-3  # of the divergence that leaving every slot out makes: the default target explains 99.9 % of it
FIRST_PRICE = 1e-3  # nats per active slot, where the search begins
LOWEST, HIGHEST = 1e-5, 10.0  # a thousand slots for 0.01 nats; a slot for an input's whole output, about
SPEED = 40.0  # e-folds of price in a whole training at its first speed: three decades in a sixth of it
WINDOW = 0.01  # of training, in which the divergence is averaged: one batch's is noisy


class DivergenceController(nn.Module):
    """Integral control of log price by log(divergence / target), one for each of S instances.

    d log(coefficient) / d progress = -SPEED * slowing * clamp(log(running / target), -1, 1), progress from 0 to 1 over
    training. `running` is the exponential mean of what `update` is told. Slowing follows the learning rate: what is
    controlled answers ever more slowly as that falls. All state is in buffers, so a resumed run is the uninterrupted
    one.
    """

    coefficient: Tensor
    target: Tensor
    running: Tensor
    progress: Tensor

    def __init__(self, instances: int):
        super().__init__()
        self.register_buffer("coefficient", torch.full((instances,), FIRST_PRICE))
        self.register_buffer("target", torch.ones(instances))
        self.register_buffer("running", torch.full((instances,), torch.nan))  # nothing seen
        self.register_buffer("progress", torch.zeros(()))

    @torch.no_grad()
    def update(self, divergence: Tensor, progress: float) -> None:
        """`divergence` [S] >= 0, in nats per input, of the batch at `progress` in [0, 1] under masks of importances."""
        elapsed = progress - self.progress
        fresh = 1 - torch.exp(-elapsed / WINDOW)
        self.running.copy_(
            torch.where(self.running.isnan(), divergence, self.running.lerp(divergence.to(self.running), fresh))
        )
        error = (self.running.clamp(min=1e-30) / self.target).log().clamp(-1, 1)
        slowing = 0.5 * (1 + torch.cos(torch.pi * torch.as_tensor(progress)))
        self.coefficient.mul_(torch.exp(-SPEED * elapsed * slowing * error)).clamp_(LOWEST, HIGHEST)
        self.progress.fill_(progress)
