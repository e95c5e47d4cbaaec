"""APD: components are vectors in parameter space, low rank at every site (Braun et al., arXiv 2501.14926).

A component owns m slots at each site and is on or off everywhere at once. Three losses: faithfulness (sum of all
components = W), minimality (the batch's k*B most attributed components reproduce the output), simplicity (factorised
Schatten-p of active components). Attributions are closed-form and carry no gradient, as in the paper. Differences: a
share of batches uses the alive set instead of the top k, so that the explained output is trained too; a new input's
components are switched on by a threshold on attributions, learned from trusted data, since a batch's top k would
make a row depend on its batch. Two starts: `random` is the paper's; `sparse` begins at few rank-one atoms a site
(sparse_start.py), those of use on the same trusted inputs in one component, and finds top_k by itself.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from madpipe.components.masks import InputMask, SharedMask, SiteMask
from madpipe.components.model import Forward
from madpipe.components.sites import Site
from madpipe.decomposition.attributions import component_attributions, own_attributions
from madpipe.decomposition.initialisation import grouped_by_use, start_at_groups
from madpipe.decomposition.losses import faithfulness, hidden_reconstruction, schatten
from madpipe.decomposition.method import Batch, Method, MethodConfig, TrustedStatistics
from madpipe.decomposition.sparse_start import USED, sparse_forms

ROWS = 2000  # trusted inputs on which a sparse start's components are counted


class APDConfig(MethodConfig):
    """components C and rank m; top_k: components active per input, on average over a batch.

    Coefficients and p follow the paper's resid_mlp and TMS runs (table 1), normalised: faithfulness is relative to the
    mean squared weight, simplicity to the target's own Schatten energy.
    """

    steps: int = 1500
    learning_rate: float = 3e-3
    start: Literal["random", "sparse"] = "random"
    components: int | None = 32  # None: clip(8 * largest rank of a site, 20, 256)
    rank: int = 4
    top_k: float | None = 8.0  # None: how many components of a sparse start are of use per trusted input
    faithfulness_coefficient: float = 1.0
    minimality_coefficient: float = 1.0
    hidden_coefficient: float = 0.1
    simplicity_coefficient: float = 0.1
    schatten_exponent: float = 0.9
    initial_scale: float = 0.1  # |sum of components| at the start, relative to |W|
    alive_share: float = 0.25
    alive_after: int = 100  # steps before the running frequency is trusted
    alive_decay: float = 0.98

    @model_validator(mode="after")
    def _a_random_start_needs_top_k(self) -> Self:
        if self.top_k is None and self.start == "random":
            raise ValueError("top_k is null, which a random start cannot find out; set it, or start: sparse.")
        return self


class APD(Method):
    """Component c owns the slots c * rank to (c + 1) * rank - 1 of every site; its activity is one or zero."""

    Config: ClassVar[type[MethodConfig]] = APDConfig
    name: ClassVar[str] = "apd"
    spans_sites: ClassVar[bool] = True
    config: APDConfig
    recent: Tensor
    threshold: Tensor
    top_k: Tensor
    steps_done: Tensor

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: APDConfig, instances: int):
        self.components = config.components or min(max(8 * max(site.rank for site in sites), 20), 256)
        super().__init__(target, sites, config, instances)
        self._spectra: dict[int, float] = {}  # sum of singular values^p of each site's weight
        self.register_buffer("recent", torch.ones(instances, self.components))
        self.register_buffer("threshold", torch.zeros(instances))
        self.register_buffer("top_k", torch.full((instances,), config.top_k or 0.0), persistent=config.top_k is None)
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    @classmethod
    def variants(cls, config: MethodConfig) -> list[str]:
        return ["apd"]

    def slots(self, site: Site) -> int:
        return self.components * self.config.rank

    def component_names(self) -> list[str]:
        return [f"component.{c}" for c in range(self.components)]

    @property
    def slots_per_component(self) -> int:
        return self.config.rank

    def part_name(self, index: int, slot: int) -> str:
        return f"component.{slot // self.config.rank}@{self.model.sites[index].name}"

    def initialise(self, statistics: TrustedStatistics, generator: torch.Generator) -> None:
        self.statistics = statistics
        if self.config.start == "sparse":
            self._start_sparse(generator)
        else:
            self._start_random(generator)

    @torch.no_grad()
    def _start_random(self, generator: torch.Generator) -> None:
        """Small Gaussian factors: from large ones TMS 40-10 stays at a mean cosine of 0.70 with the mechanisms."""
        for i in range(len(self.model.sites)):
            V, U, weight = self.model.V[i], self.model.U[i], self.model.weight(i)
            V.copy_(torch.randn(V.shape, generator=generator))
            V.div_(V.norm(dim=1, keepdim=True))
            U.copy_(torch.randn(U.shape, generator=generator))
            U.mul_(self.config.initial_scale * weight.norm() / (U.shape[1] * U.shape[2]) ** 0.5)

    def _start_sparse(self, generator: torch.Generator) -> None:
        """Every instance at sparse forms of its own, their atoms in components by use; the top k of those components.

        Components that no group fills start near zero.
        """
        model, statistics = self.model, self.statistics
        for s in range(model.instances):
            forms = sparse_forms(model.target, model.sites, statistics.sample, statistics.metric, generator)
            groups = grouped_by_use(forms, self.config.rank)[: self.components]
            for i, site in enumerate(model.sites):
                own = [group.get(site.name, []) for group in groups]
                start_at_groups(model, i, s, forms[site.name], own, self.config.rank, generator)
            if self.config.top_k is None:
                self.top_k[s] = self._used_per_input(s, len(groups))

    def _used_per_input(self, instance: int, groups: int) -> Tensor:
        """How many of the first `groups` components are of use on a trusted input, on average."""
        attributions = self.attributions(self.statistics.sample[:ROWS])[instance, :, :groups]
        used = attributions > USED * attributions.amax(0)
        return used.sum(1).to(attributions.dtype).mean()

    def attributions(self, x: Tensor) -> Tensor:
        """[S, B, C] of x [B, ...], at the target's own weights."""
        return component_attributions(self.model, x, self.config.rank)

    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """One where a component's attribution passes the threshold, on all its slots."""
        on = (self.attributions(x) > self.threshold[:, None, None]).to(x.dtype)
        return {site.name: self._on_slots(on) for site in self.model.sites}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        active = batch_top_k(own_attributions(self.model, batch.x, config.rank), self.top_k)
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
        values = attributions.flatten(1).float()[:, :1_000_000]
        for s, share in enumerate((self.top_k / self.components).clamp(max=1.0).tolist()):
            self.threshold[s] = torch.quantile(values[s], 1 - share)
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


def batch_top_k(attributions: Tensor, k: Tensor | float) -> Tensor:
    """The k*B largest (input, component) pairs of each instance's batch as a 0/1 mask: [S, B, C] -> [S, B, C].

    `k` is one for all instances, or [S].
    """
    S, B, C = attributions.shape
    counts = (torch.as_tensor(k, dtype=torch.double).cpu() * B).long().clamp(1, B * C).expand(S)
    flat = attributions.flatten(1)
    chosen = flat.topk(int(counts.max()), dim=1).indices
    kept = torch.arange(chosen.shape[1]) < counts[:, None]
    return torch.zeros_like(flat).scatter_(1, chosen, kept.to(flat)).view(S, B, C)
