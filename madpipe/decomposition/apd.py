"""APD: components are vectors in parameter space, low rank at every site (Braun et al., arXiv 2501.14926).

A component owns m slots at each site and is on or off everywhere at once. Three losses: faithfulness (sum of all
components = W), minimality (the batch's k*B most attributed components reproduce the output), simplicity (factorised
Schatten-p of active components). Attributions are closed-form and carry no gradient, as in the paper. Differences: a
share of batches uses the alive set instead of the top k, so that the explained output is trained too; a new input's
components are switched on by a threshold on attributions, learned from trusted data, since a batch's top k would
make a row depend on its batch.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from madpipe.components.masks import InputMask, SharedMask, SiteMask
from madpipe.components.model import Forward
from madpipe.components.sites import Site
from madpipe.decomposition.attributions import component_attributions
from madpipe.decomposition.losses import faithfulness, hidden_reconstruction, schatten
from madpipe.decomposition.method import Batch, Method, MethodConfig, TrustedStatistics


class APDConfig(MethodConfig):
    """components C and rank m; top_k: components active per input, on average over a batch.

    Coefficients and p follow the paper's resid_mlp and TMS runs (table 1), normalised: faithfulness is relative to the
    mean squared weight, simplicity to the target's own Schatten energy.
    """

    steps: int = 1500
    learning_rate: float = 3e-3
    components: int = 32
    rank: int = 4
    top_k: float = 8.0
    faithfulness_coefficient: float = 1.0
    minimality_coefficient: float = 1.0
    hidden_coefficient: float = 0.1
    simplicity_coefficient: float = 0.1
    schatten_exponent: float = 0.9
    initial_scale: float = 0.1  # |sum of components| at the start, relative to |W|
    alive_share: float = 0.25
    alive_after: int = 100  # steps before the running frequency is trusted
    alive_decay: float = 0.98


class APD(Method):
    """Component c owns the slots c * rank to (c + 1) * rank - 1 of every site; its activity is one or zero."""

    Config: ClassVar[type[MethodConfig]] = APDConfig
    name: ClassVar[str] = "apd"
    config: APDConfig
    recent: Tensor
    threshold: Tensor
    steps_done: Tensor

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: APDConfig, instances: int):
        super().__init__(target, sites, config, instances)
        self._spectra: dict[int, float] = {}  # sum of singular values^p of each site's weight
        self.register_buffer("recent", torch.ones(instances, config.components))
        self.register_buffer("threshold", torch.zeros(instances))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    @classmethod
    def variants(cls, config: MethodConfig) -> list[str]:
        return ["apd"]

    def slots(self, site: Site) -> int:
        return self.config.components * self.config.rank

    def component_names(self) -> list[str]:
        return [f"component.{c}" for c in range(self.config.components)]

    def part_name(self, index: int, slot: int) -> str:
        return f"component.{slot // self.config.rank}@{self.model.sites[index].name}"

    def initialise(self, statistics: TrustedStatistics, generator: torch.Generator) -> None:
        """Small Gaussian factors: from large ones TMS 40-10 stays at a mean cosine of 0.70 with the mechanisms."""
        self.statistics = statistics
        for i in range(len(self.model.sites)):
            V, U, weight = self.model.V[i], self.model.U[i], self.model.weight(i)
            with torch.no_grad():
                V.copy_(torch.randn(V.shape, generator=generator))
                V.div_(V.norm(dim=1, keepdim=True))
                U.copy_(torch.randn(U.shape, generator=generator))
                U.mul_(self.config.initial_scale * weight.norm() / (U.shape[1] * U.shape[2]) ** 0.5)

    def attributions(self, x: Tensor) -> Tensor:
        """[S, B, C] of x [B, ...], at the target's own weights."""
        return component_attributions(self.model, x, self.config.rank)

    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """One where a component's attribution passes the threshold, on all its slots."""
        on = (self.attributions(x) > self.threshold[:, None, None]).to(x.dtype)
        return {site.name: self._on_slots(on) for site in self.model.sites}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        config, S = self.config, self.model.instances
        parts = [self.attributions(x)[s] for s, x in enumerate(batch.x.chunk(S))]
        active = batch_top_k(torch.stack(parts), config.top_k)
        self._remember(active)
        use_alive = float(torch.rand((), generator=batch.generator)) < config.alive_share
        masked = self.model.masked_forward(batch.x, self._alive_masks_now() if use_alive else self._input_masks(active))
        statistics = self.statistics
        minimality = statistics.metric.reconstruction(batch.clean.output, masked.output)
        variances = dict(statistics.hidden_variances)
        hidden = hidden_reconstruction(dict(batch.clean.site_inputs), dict(masked.site_inputs), variances)
        weights = [self.model.weight(i) for i in range(len(self.model.sites))]
        scale = sum(float(w.square().sum()) for w in weights) / sum(w.numel() for w in weights)
        faithful = faithfulness([self.model.delta(i) for i in range(len(weights))]) / scale
        simplicity = torch.stack([self._simplicity(i, active) for i in range(len(weights))]).mean(0)
        total = config.faithfulness_coefficient * faithful + config.minimality_coefficient * minimality
        total = total + config.hidden_coefficient * hidden + config.simplicity_coefficient * simplicity
        return {
            "total": total,
            "faithfulness": faithful,
            "minimality": minimality,
            "hidden": hidden,
            "simplicity": simplicity,
        }

    def after_step(self, step: int) -> None:
        self.steps_done.fill_(step + 1)

    @torch.no_grad()
    def settle(self, chunks: Sequence[Tensor], threshold: float = 0.1) -> None:
        """Set the threshold that `top_k` components per trusted input pass on average, then the alive sets."""
        attributions = torch.cat([self.attributions(x) for x in chunks], 1)
        share = min(self.config.top_k / self.config.components, 1.0)
        self.threshold.copy_(torch.quantile(attributions.flatten(1).float()[:, :1_000_000], 1 - share, dim=1))
        super().settle(chunks, threshold)

    def _simplicity(self, index: int, active: Tensor) -> Tensor:
        """Schatten energy of active components over that of the whole weight: [S]."""
        exponent = self.config.schatten_exponent
        if index not in self._spectra:
            spectrum = torch.linalg.svdvals(self.model.weight(index))
            self._spectra[index] = max(float(spectrum.pow(exponent).sum()), 1e-6)  # a weight of zeros has none
        return schatten(self.model.U[index], self.model.V[index], active, exponent) / self._spectra[index]

    def _on_slots(self, components: Tensor) -> Tensor:
        return components.repeat_interleave(self.config.rank, dim=-1)

    def _input_masks(self, active: Tensor) -> dict[str, SiteMask]:
        slots = self._on_slots(active)
        return {site.name: InputMask(slots) for site in self.model.sites}

    def _alive_masks_now(self) -> dict[str, SiteMask]:
        early = int(self.steps_done) < self.config.alive_after
        alive = torch.ones_like(self.recent) if early else (self.recent > 1e-3).to(self.recent.dtype)
        return {site.name: SharedMask(self._on_slots(alive)) for site in self.model.sites}

    @torch.no_grad()
    def _remember(self, active: Tensor) -> None:
        """Running share of inputs on which each component is active."""
        self.recent.mul_(self.config.alive_decay).add_((1 - self.config.alive_decay) * active.mean(1))


def batch_top_k(attributions: Tensor, k: float) -> Tensor:
    """The k*B largest (input, component) pairs of each instance's batch as a 0/1 mask: [S, B, C] -> [S, B, C]."""
    S, B, C = attributions.shape
    count = min(max(int(k * B), 1), B * C)
    chosen = attributions.flatten(1).topk(count, dim=1, sorted=False).indices
    mask = torch.zeros(S, B * C, dtype=attributions.dtype, device=attributions.device).scatter_(1, chosen, 1.0)
    return mask.view(S, B, C)
