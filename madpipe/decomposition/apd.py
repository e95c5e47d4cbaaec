"""APD: components are vectors in parameter space, low rank at every site (Braun et al., arXiv 2501.14926).

A component owns m slots at each site and is on or off everywhere at once. Three losses: faithfulness (sum of all
components = W), minimality (the batch's k*B most attributed components reproduce the output), simplicity (factorised
Schatten-p of active components). Attributions carry no gradient, as in the paper; but where they are priced in place of
the top k (`selection: lp`, the paper's other variant) they do, and they weigh simplicity. Differences: a share of
batches uses the alive set instead of the top k, so that the explained output is trained too; a new input's components
are switched on by a threshold on attributions, learned from trusted data, since a batch's top k would make a row
depend on its batch. Two starts: `random` is the paper's; `sparse` begins at few rank-one atoms a site
(sparse_start.py), those of use on the same trusted inputs in one component, and finds top_k by itself.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from madpipe.components.masks import ActiveMask, InputMask, SharedMask, SiteMask
from madpipe.components.model import Forward
from madpipe.components.pairs import active_pairs
from madpipe.components.sites import Site
from madpipe.decomposition.active_components import batch_top_k, pair_counts, threshold_of, top_k
from madpipe.decomposition.apd_config import APDConfig
from madpipe.decomposition.atom_usage import USED
from madpipe.decomposition.component_attributions import (
    component_attributions,
    squared_attributions,
)
from madpipe.decomposition.initialisation import grouped_by_use, start_at_groups
from madpipe.decomposition.losses import faithfulness, hidden_reconstruction, schatten, sum_and_sizes
from madpipe.decomposition.merged_rows import MergedRows
from madpipe.decomposition.method import Batch, Method, MethodConfig, TrustedStatistics
from madpipe.decomposition.processes import alone, rows_of_all
from madpipe.decomposition.sparse_start import sparse_forms
from madpipe.errors import ContentError

ROWS = 2000  # trusted inputs on which a sparse start's components are counted
TERMS = ("faithfulness", "minimality", "hidden", "simplicity")
TINY = 1e-16  # added to squared attributions, for a gradient finite at 0
DENSE = 0.25  # of all pairs: where more would be computed, all slots are computed for all inputs
SMALL = 2**17  # inner activations of a site in a batch: below it, gathering pairs takes longer than computing all slots


class APD(Method):
    """Component c owns the slots c * rank to (c + 1) * rank - 1 of every site; its activity is one or zero."""

    Config: ClassVar[type[MethodConfig]] = APDConfig
    name: ClassVar[str] = "apd"
    spans_sites: ClassVar[bool] = True
    fused_updates: ClassVar[bool] = True  # unfused, updates are a fifth of a step of the residual MLP
    config: APDConfig
    recent: Tensor
    threshold: Tensor
    top_k: Tensor
    steps_done: Tensor

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: APDConfig, instances: int):
        self.components = config.components or min(max(8 * max(site.rank for site in sites), 20), 256)
        if config.top_k is not None and config.top_k > self.components:
            raise ContentError(
                f"decomposition.top_k: {config.top_k:g} is more than the {self.components} components that the sizes "
                "of the target's sites give; lower it, or set decomposition.components."
            )
        super().__init__(target, sites, config, instances)
        self._weights_mean_square: float | None = None
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
        return component_attributions(self.model, x, self.config.rank, self.config.how)

    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """One where a component's attribution passes the threshold, or is among the input's top k, on all its slots."""
        attributions = self.attributions(x)
        if self.config.selection == "top_k":
            on = top_k(attributions, int(self.top_k[0])).to(x.dtype)
        else:
            on = (attributions > self.threshold[:, None, None]).to(x.dtype)
        return {site.name: self._on_slots(on) for site in self.model.sites}

    @property
    def merges_rows(self) -> bool:
        """The top k of a batch that processes share is chosen from as many rows of each."""
        return alone()

    @property
    def draws(self) -> bool:
        return self.config.alive_share > 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        terms, frequencies = self._priced(batch) if self.config.selection == "lp" else self._selected(batch)
        terms["faithfulness"], terms["simplicity"] = self._faithfulness_and_simplicity(frequencies)
        total = torch.zeros_like(terms["faithfulness"])
        for name in TERMS:
            coefficient = self._coefficient(name, batch.progress)
            total = total + coefficient * terms[name] if coefficient else total  # of 0, no gradient of zeros either
        return {"total": total} | {name: terms[name] for name in TERMS}

    def _coefficient(self, term: str, progress: float) -> float:
        """As set; but simplicity's falls to 0 on the last steps, where asked: it shrinks what it no longer sorts."""
        coefficient: float = getattr(self.config, f"{term}_coefficient")
        if term == "simplicity" and self.config.simplicity_anneal:
            return coefficient * min(1.0, (1 - progress) / self.config.simplicity_anneal)
        return coefficient

    def _selected(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of a pass with the attributed components alone (or the alive set); how often each is one, [S, C]."""
        active, frequencies = self._active(batch)
        use_alive = self.draws and float(torch.rand((), generator=batch.generator)) < self.config.alive_share
        masked = self.model.masked_forward(batch.x, self._alive_masks_now() if use_alive else self._input_masks(active))
        return {
            "minimality": self.statistics.metric.reconstruction(batch.clean.output, masked.output, batch.mean),
            "hidden": self._hidden(batch, masked),
        }, frequencies

    @torch.no_grad()
    def _active(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which components are, bool [S, B, C], and on which share of these inputs, [S, C]."""
        squares = squared_attributions(self.model, batch.x, self.config.rank, self.config.how, own=True)
        squares = rows_of_all(squares)
        if self.config.selection == "top_k":
            whole = top_k(squares, int(self.top_k[0]))
            frequencies = batch.mean_over_inputs(whole.to(squares.dtype))
        else:
            whole, frequencies = self._batch_top_k(squares, batch.merged)
        self._remember(frequencies)
        own = batch.share.of(whole)
        return own, frequencies if own is whole else own.to(squares.dtype).mean(1)

    def _batch_top_k(self, squares: Tensor, merged: MergedRows | None) -> tuple[Tensor, Tensor]:
        """Of `squares` [S, B, C] the batch's top k, bool, and on which share of the inputs drawn each is: [S, C].

        Merged inputs have attributions of 0. Where the others are too few for the top k, what is left to choose has no
        effect, and counts as if all components had an equal part of it.
        """
        if merged is None:
            whole = batch_top_k(squares, self.top_k)
            return whole, whole.sum(1).to(squares.dtype) / whole.shape[1]
        C, drawn = squares.shape[2], merged.drawn
        whole = functional.pad(batch_top_k(squares[:, :-1], self.top_k, drawn), (0, 0, 0, 1))
        chosen = whole.sum(1).to(squares.dtype)
        left = pair_counts(self.top_k, drawn, C).to(chosen) - chosen.sum(1)
        return whole, (chosen + left[:, None] / C) / drawn

    def _priced(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of a pass with every component, its attributions priced: (A^2 / sigma^2 + tiny)^(p/2); weights [S, C].

        The same price weighs a component's singular values: of a Schatten exponent q it counts to the power q/2.
        """
        squares = squared_attributions(self.model, batch.x, self.config.rank, self.config.how, own=True)
        prices = (squares / self.statistics.metric.variance + TINY).pow(self.config.lp_exponent / 2)
        everything = self.model.masked_forward(batch.x, self.all_slots_masks())
        return {
            "minimality": batch.mean(prices.sum(2)),
            "hidden": self._hidden(batch, everything),
        }, batch.mean_over_inputs(prices.pow(self.config.schatten_exponent / 2))

    def _hidden(self, batch: Batch, masked: Forward) -> Tensor:
        with torch.set_grad_enabled(self.config.hidden_coefficient > 0):
            variances = dict(self.statistics.hidden_variances)
            inputs = dict(batch.clean.site_inputs), dict(masked.site_inputs)
            hidden = hidden_reconstruction(*inputs, variances, batch.mean)
        return hidden.expand(self.model.instances)

    def _faithfulness_and_simplicity(self, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """Squared delta over the mean squared weight; Schatten energy of active components over that of the whole
        weight, mean over sites: [S] each. `frequencies` [S, C]: on which share of inputs each component is active.
        """
        model, exponent, deltas, energies = self.model, self.config.schatten_exponent, [], []
        for i in range(len(model.sites)):
            total, sizes = sum_and_sizes(model.V[i], model.U[i])
            deltas.append(model.weight(i) - total)
            energies.append(schatten(sizes, frequencies, exponent) / self._spectrum(i))
        return faithfulness(deltas) / self._mean_square(), torch.stack(energies).mean(0)

    def _mean_square(self) -> float:
        """Of all the weights."""
        if self._weights_mean_square is None:
            weights = [self.model.weight(i) for i in range(len(self.model.sites))]
            self._weights_mean_square = sum(float(w.square().sum()) for w in weights) / sum(w.numel() for w in weights)
        return self._weights_mean_square

    def after_step(self, step: int) -> None:
        self.steps_done.fill_(step + 1)

    @torch.no_grad()
    def settle(self, chunks: Sequence[Tensor], threshold: float = 0.1) -> None:
        """Set the threshold, then the alive sets.

        `top_k` components per trusted input pass it on average; where that is not known, those above 5 % of the most.
        """
        if self.config.selection != "top_k":
            attributions = torch.cat([self.attributions(x) for x in chunks], 1)
            for s, k in enumerate(self.top_k.tolist()):
                self.threshold[s] = threshold_of(attributions[s], k) if k else USED * attributions[s].max()
        super().settle(chunks, threshold)

    def _spectrum(self, index: int) -> float:
        """Schatten energy of the weight of site `index`."""
        if index not in self._spectra:
            values = torch.linalg.svdvals(self.model.weight(index))
            self._spectra[index] = max(float(values.pow(self.config.schatten_exponent).sum()), 1e-6)  # of zeros, none
        return self._spectra[index]

    def _on_slots(self, components: Tensor) -> Tensor:
        return components.repeat_interleave(self.config.rank, dim=-1)

    def _input_masks(self, active: Tensor) -> dict[str, SiteMask]:
        """The active pairs alone where they are few; a convolution would run once for each component."""
        linear = [site.name for site in self.model.sites if site.kind == "linear"]
        pairs = active_pairs(active) if linear and active.numel() * self.config.rank > SMALL else None
        masks: dict[str, SiteMask] = {}
        if pairs is not None and pairs.size <= DENSE * active.numel():
            masks = dict.fromkeys(linear, ActiveMask(pairs))
        if len(masks) < len(self.model.sites):
            everything = InputMask(self._on_slots(active.to(self.recent.dtype)))
            masks = {site.name: masks.get(site.name, everything) for site in self.model.sites}
        return masks

    def _alive_masks_now(self) -> dict[str, SiteMask]:
        early = int(self.steps_done) < self.config.alive_after
        alive = torch.ones_like(self.recent) if early else (self.recent > 1e-3).to(self.recent.dtype)
        return {site.name: SharedMask(self._on_slots(alive)) for site in self.model.sites}

    @torch.no_grad()
    def _remember(self, frequencies: Tensor) -> None:
        """Running share of inputs on which each component is active."""
        self.recent.mul_(self.config.alive_decay).add_((1 - self.config.alive_decay) * frequencies)
