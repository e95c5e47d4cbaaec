"""Adversaries: sources r of masks m = g + (1 - g) r that make a decomposition explain worst what it claims to explain.

After VPD (Bushnaq et al., "Interpreting Language Model Parameters", 2026). A decomposition says that a slot of
importance 0 may be ablated, by any amount and together with any others. Random sources hardly ever try the worst
combination; an adversary looks for it by projected gradient ascent (PGD) on the divergence. One that keeps its sources
from step to step is cheap enough to train against (PersistentSources); one that begins afresh is a figure of quality
(fresh_attack). The weight delta has importance 0 and a source of its own, the last one.

Legend: S instances, n sources, K slots of a site, B inputs, P positions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from madpipe.components.masks import InputMask, mask_from_source
from madpipe.decomposition.method import Method

BETAS, EPSILON = (0.5, 0.99), 1e-8  # of Adam, as in the published code of VPD
WARMUP = 0.025  # share of training in which the rate of ascent rises from 0; the same

ATTACKED_ROWS = (
    512  # of validation rows, the first ones: 20 steps on all of them would cost more than all other figures
)
ATTACK_STEPS, ATTACK_SIZE = 20, 0.1  # the budget of VPD's own evaluation
PASS_ROWS = 128  # held in memory with their gradients at once


class PersistentSources(nn.Module):
    """n sources in [0, 1] for each site and instance, [S, n, K + 1], ascended by Adam and kept from step to step.

    Row b of a batch is masked by source b mod n, at all of its positions. All is in buffers, so that a checkpoint holds
    it and a resumed run is the uninterrupted one.
    """

    ascents: Tensor

    def __init__(self, slots: Sequence[int], instances: int, count: int):
        super().__init__()
        self.sites = len(slots)
        for i, k in enumerate(slots):
            for kind in ("source", "mean", "square"):
                self.register_buffer(f"{kind}_{i}", torch.zeros(instances, count, k + 1))
        self.register_buffer("ascents", torch.zeros((), dtype=torch.long))

    def _all(self, kind: str) -> list[Tensor]:
        return [getattr(self, f"{kind}_{i}") for i in range(self.sites)]

    def initialise(self, generator: torch.Generator) -> None:
        """r ~ U(0, 1)."""
        for source in self._all("source"):
            source.copy_(torch.rand(source.shape, generator=generator))

    def leaves(self) -> list[Tensor]:
        """Copies to take a gradient of."""
        return [source.clone().requires_grad_() for source in self._all("source")]

    @torch.no_grad()
    def ascend(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One step of Adam up `gradients`, then back into [0, 1]."""
        self.ascents += 1
        bias = [1 - beta ** int(self.ascents) for beta in BETAS]
        kinds = (self._all("source"), self._all("mean"), self._all("square"))
        for source, mean, square, gradient in zip(*kinds, gradients, strict=True):
            mean.lerp_(gradient, 1 - BETAS[0])
            square.lerp_(gradient.square(), 1 - BETAS[1])
            step = mean / bias[0] / ((square / bias[1]).sqrt() + EPSILON)
            source.add_(rate * step).clamp_(0, 1)


def masks_from_sources(importances: Mapping[str, Tensor], sources: Sequence[Tensor]) -> dict[str, InputMask]:
    """m = g + (1 - g) r and the delta's mask r, for g [S, B, *P, K] and r [S, B, K + 1] or [S, 1, K + 1]."""
    masks = {}
    for (name, g), source in zip(importances.items(), sources, strict=True):
        own = source.expand(-1, g.shape[1], -1)
        slots = own[..., :-1].reshape(*own.shape[:2], *[1] * (g.ndim - 3), g.shape[-1])
        masks[name] = InputMask(mask_from_source(g, slots), own[..., -1])
    return masks


def fresh_attack(method: Method, x: Tensor) -> Tensor:
    """KL in nats per input of the pass under the worst masks found for all of `x` [B, ...] at once: [S].

    One source for each site and instance, shared by inputs and positions, from r ~ U(0, 1) (the same for every
    instance) through ATTACK_STEPS steps of ATTACK_SIZE along the sign of the gradient: VPD's evaluation. Its own
    generator draws, so that no other figure's draws move. The delta is attacked in every method.
    """
    parts = [(part, *_clean_and_active(method, part)) for part in x.split(PASS_ROWS)]
    generator = torch.Generator().manual_seed(0)
    model = method.model
    drawn = [torch.rand(1, 1, k + 1, generator=generator).to(model.V[0]) for k in model.slots]
    sources = [source.repeat(model.instances, 1, 1) for source in drawn]
    for _ in range(ATTACK_STEPS):
        gradients = [torch.zeros_like(source) for source in sources]
        for part in parts:
            leaves = [source.clone().requires_grad_() for source in sources]
            with torch.enable_grad():
                found = torch.autograd.grad(_divergence(method, *part, leaves).sum(), leaves)
            gradients = [total + own for total, own in zip(gradients, found, strict=True)]
        sources = [
            (source + ATTACK_SIZE * gradient.sign()).clamp(0, 1)
            for source, gradient in zip(sources, gradients, strict=True)
        ]
    with torch.no_grad():
        return torch.stack([_divergence(method, *part, sources) for part in parts]).sum(0) / max(len(x), 1)


@torch.no_grad()
def _clean_and_active(method: Method, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    clean = method.model.clean_forward(x)
    return clean.output, method.activity(clean, x)


def _divergence(
    method: Method, x: Tensor, clean: Tensor, activity: Mapping[str, Tensor], sources: Sequence[Tensor]
) -> Tensor:
    """KL under `sources`, summed over inputs and positions: [S]."""
    S = method.model.instances
    masks = masks_from_sources(activity, sources)
    explained = method.model.masked_forward(x.repeat(S, *[1] * (x.ndim - 1)), masks).output
    return method.statistics.metric.kl(clean, explained).flatten(1).sum(1)
