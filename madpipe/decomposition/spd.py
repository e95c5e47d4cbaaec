"""SPD: rank-one slots, causal importances, stochastic masks (Bushnaq, Braun, Sharkey, arXiv 2506.20790).

Three starts. `weights`, the default, begins at W on the directions that trusted inputs excite. `zero` grows from near
zero only what trusted data need. `sparse` begins at few rank-one atoms, each of use on few inputs (sparse_start.py).
The weight delta is W minus the sum of slots: either a masked channel of its own, where a Frobenius penalty on the sum
of alive slots (parsimony) leaves it what trusted inputs never excite, or held to zero by a faithfulness loss, as in the
paper. Other differences from the paper: the importance function sees the site's whole input unless told otherwise, and
a share of batches may use the mask "alive 1, dead 0, delta 0", so that the explained output is on the training
distribution.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from madpipe.components.masks import InputMask, SharedMask, SiteMask, stochastic_mask
from madpipe.components.model import Forward
from madpipe.components.sites import Site
from madpipe.decomposition.causal_importance import (
    IMPORTANCE_FUNCTIONS,
    ImportanceFunction,
    lower_leaky_hard_sigmoid,
    upper_leaky_hard_sigmoid,
)
from madpipe.decomposition.initialisation import start_at_atoms, start_at_weights, start_near_zero
from madpipe.decomposition.losses import (
    frequency,
    hidden_reconstruction,
    importance_minimality,
    parsimony,
    per_instance_mean,
    relative_faithfulness,
    smooth_l0,
)
from madpipe.decomposition.method import Batch, Method, MethodConfig, TrustedStatistics
from madpipe.decomposition.schedules import geometric, linear
from madpipe.decomposition.sparse_start import sparse_forms


class SPDVariant(BaseModel):
    """One of the decompositions trained side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hidden_coefficient: float = 0.0  # match hidden activations too, not outputs alone
    distance_coefficient: float = 1.0  # match raw outputs too, not the distribution they stand for alone
    parsimony_coefficient: float | None = None  # None: that of the method
    importance_coefficient: float | None = None  # None: that of the method


class SPDConfig(MethodConfig):
    """Defaults were measured on the Boolean and digits tasks (docs/detection.md).

    The published ones are in docs/decomposition.md.
    """

    components: int | None = None  # slots per site; None: clip(2 * rank, 32, 128), clip(8 * rank, 20, 256) if sparse
    start: Literal["zero", "weights", "sparse"] = "weights"
    parsimony_coefficient: float = 1.0
    faithfulness_coefficient: float = 0.0  # on |W - sum|^2 / |W|^2
    faithfulness_warmup: int = 0  # first steps, on faithfulness alone
    importance_coefficient: float = 1e-3  # nats per active slot and input
    importance_penalty: Literal["lp", "smooth_l0"] = "lp"
    importance_exponent: tuple[float, float] = (2.0, 0.5)  # p of lp at the start and at the end of training
    importance_width: tuple[float, float] = (1.0, 0.01)  # width of smooth_l0 at the start and at the end
    importance_function: ImportanceFunction = "site"
    importance_warmup: int = 0  # first steps, in which only importance functions train: a good start is not spoilt
    importance_hidden: int = 64  # units of the importance function; 16 a slot in the paper's
    frequency_coefficient: float = 0.0  # against unrelated mechanisms in one slot (VPD)
    frequency_scale: float = 100.0
    mask_shares: tuple[float, float, float] = (0.05, 0.9, 0.05)  # of batches: importances alone, alive set, stochastic
    stochastic_delta: bool = True  # the delta is masked too; False: left out, as where faithfulness holds it to zero
    routed_share: float = 0.5  # of stochastic batches, in which a random half of the sites runs clean
    layerwise_coefficient: float = (
        0.0  # stochastic reconstruction with one site masked at a time (SPD's layerwise term)
    )
    alive_decay: float = 0.8  # per batch with importances, of the running maximum of each slot's importance
    alive_after: int = 100  # steps before the running maximum is trusted
    alive_threshold: float = 0.1
    variants: tuple[SPDVariant, ...] = (
        SPDVariant(name="output", distance_coefficient=0.0, parsimony_coefficient=0.1),
        SPDVariant(name="hidden", hidden_coefficient=1.0, parsimony_coefficient=1.0),
    )


class SPD(Method):
    """Each slot is a subcomponent of its own; its activity is the causal importance g in [0, 1]."""

    Config: ClassVar[type[MethodConfig]] = SPDConfig
    name: ClassVar[str] = "spd"
    config: SPDConfig
    hidden_weight: Tensor
    distance_weight: Tensor
    parsimony_weight: Tensor
    importance_weight: Tensor
    steps_done: Tensor

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: SPDConfig, instances: int):
        super().__init__(target, sites, config, instances)
        slots = self.model.slots
        function = IMPORTANCE_FUNCTIONS[config.importance_function]
        self.importance = nn.ModuleList(
            function(site, k, instances, config.importance_hidden) for site, k in zip(sites, slots, strict=True)
        )
        for i, k in enumerate(slots):
            self.register_buffer(f"recent_{i}", torch.ones(instances, k))
        for coefficient in ("hidden", "distance", "parsimony", "importance"):
            self.register_buffer(f"{coefficient}_weight", self._coefficients(f"{coefficient}_coefficient"))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))

    def _coefficients(self, name: str) -> Tensor:
        """One coefficient per instance, [S]: the variant's own, or the method's."""
        own = [getattr(variant, name) for variant in self.config.variants]
        values = [getattr(self.config, name) if value is None else value for value in own]
        return torch.tensor(values).repeat(self.model.instances // len(values))

    @classmethod
    def variants(cls, config: MethodConfig) -> list[str]:
        assert isinstance(config, SPDConfig)
        return [variant.name for variant in config.variants]

    def matches_output(self) -> list[bool]:
        own = [variant.hidden_coefficient == 0 for variant in self.config.variants]
        return own if any(own) else [True] * len(own)

    def matches_hidden(self) -> list[bool]:
        own = [variant.hidden_coefficient > 0 for variant in self.config.variants]
        return own if any(own) else [True] * len(own)

    def slots(self, site: Site) -> int:
        if self.config.components:
            return self.config.components
        sparse = self.config.start == "sparse"
        return min(max(8 * site.rank, 20), 256) if sparse else min(max(2 * site.rank, 32), 128)

    def component_names(self) -> list[str]:
        return [
            f"{site.name}.{k}" for site, n in zip(self.model.sites, self.model.slots, strict=True) for k in range(n)
        ]

    def initialise(self, statistics: TrustedStatistics, generator: torch.Generator) -> None:
        self.statistics = statistics
        if self.config.start == "sparse":
            self._start_sparse(generator)
        for i, site in enumerate(self.model.sites):
            if self.config.start == "zero":
                start_near_zero(self.model, i, statistics.spans[site.name], generator)
            elif self.config.start == "weights":
                start_at_weights(self.model, i, statistics.spans[site.name], generator)
            self.importance[i].initialise(generator)  # type: ignore[operator]

    def _start_sparse(self, generator: torch.Generator) -> None:
        """Every instance at a sparse form of its own."""
        model, statistics = self.model, self.statistics
        for s in range(model.instances):
            forms = sparse_forms(model.target, model.sites, statistics.sample, statistics.metric, generator)
            for i, site in enumerate(model.sites):
                start_at_atoms(model, i, s, forms[site.name], generator)

    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """Causal importances g in [0, 1]."""
        logits = self._importance_logits(clean)
        return {name: lower_leaky_hard_sigmoid(value) for name, value in logits.items()}

    def _importance_logits(self, clean: Forward) -> dict[str, Tensor]:
        logits = {}
        for i, site in enumerate(self.model.sites):
            x = clean.site_inputs[site.name]
            if x.shape[0] != self.model.instances:
                x = x.expand(self.model.instances, *x.shape[1:])
            flat = x.reshape(-1, *x.shape[2:])
            logits[site.name] = self.importance[i](flat, self.model.operation(i), self.model.V[i])
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One kind of mask for the whole batch. Alive-set batches need no importances, and leave them untrained."""
        config, metric = self.config, self.statistics.metric
        if int(self.steps_done) < config.faithfulness_warmup:
            faithful = self._faithfulness()
            return {"total": faithful, "faithfulness": faithful}
        pure, alive, _ = config.mask_shares
        draw = float(torch.rand((), generator=batch.generator))
        if pure <= draw < pure + alive:
            masks, terms = self._alive_now_masks(), dict[str, Tensor]()
        else:
            masks, terms = self._importance_masks(batch, pure=draw < pure)
        masked = self.model.masked_forward(batch.x, masks)
        clean_inputs, masked_inputs = dict(batch.clean.site_inputs), dict(masked.site_inputs)
        clean, explained = batch.clean.output, masked.output
        terms["divergence"] = per_instance_mean(metric.kl(clean, explained))
        terms["distance"] = per_instance_mean(metric.squared_distance(clean, explained))
        terms["hidden"] = hidden_reconstruction(clean_inputs, masked_inputs, dict(self.statistics.hidden_variances))
        if config.layerwise_coefficient and draw >= pure + alive:
            terms["layerwise"] = self._layerwise(batch, masks)
        terms |= self._weight_losses()
        return {"total": self._total(terms), **terms}

    def _layerwise(self, batch: Batch, masks: Mapping[str, SiteMask]) -> Tensor:
        """Divergence with one site masked at a time, mean over sites: [S]."""
        kl = self.statistics.metric.kl
        outputs = [self.model.masked_forward(batch.x, {name: mask}).output for name, mask in masks.items()]
        return torch.stack([per_instance_mean(kl(batch.clean.output, output)) for output in outputs]).mean(0)

    def _importance_masks(self, batch: Batch, pure: bool) -> tuple[dict[str, SiteMask], dict[str, Tensor]]:
        """Masks from this batch's importances, with the price of those importances."""
        logits = self._importance_logits(batch.clean)
        importances = {name: lower_leaky_hard_sigmoid(value) for name, value in logits.items()}
        self._remember(importances)
        penalised = [upper_leaky_hard_sigmoid(value) for value in logits.values()]
        terms = {"importance_minimality": self._minimality(penalised, batch.progress)}
        if self.config.frequency_coefficient:
            terms["frequency"] = frequency(penalised, self.config.frequency_scale)
        if pure:
            return {name: InputMask(g) for name, g in importances.items()}, terms
        return self._stochastic_masks(importances, batch.generator), terms

    def _minimality(self, importances: list[Tensor], progress: float) -> Tensor:
        if self.config.importance_penalty == "smooth_l0":
            return smooth_l0(importances, geometric(progress, *self.config.importance_width))
        return importance_minimality(importances, linear(progress, *self.config.importance_exponent))

    def _faithfulness(self) -> Tensor:
        sites = range(len(self.model.sites))
        return relative_faithfulness([self.model.delta(i) for i in sites], [self.model.weight(i) for i in sites])

    def _weight_losses(self) -> dict[str, Tensor]:
        sites = range(len(self.model.sites))
        terms = {}
        if bool((self.parsimony_weight > 0).any()):
            sums = [self.model.component_sum(i, self._alive_now(i)) for i in sites]
            terms["parsimony"] = parsimony(sums, [self.model.weight(i) for i in sites])
        if self.config.faithfulness_coefficient:
            terms["faithfulness"] = self._faithfulness()
        return terms

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum, [S]."""
        coefficients: dict[str, float | Tensor] = {
            "divergence": 1.0,
            "distance": self.distance_weight,
            "hidden": self.hidden_weight,
            "importance_minimality": self.importance_weight,
            "parsimony": self.parsimony_weight,
            "faithfulness": self.config.faithfulness_coefficient,
            "layerwise": self.config.layerwise_coefficient,
            "frequency": self.config.frequency_coefficient,
        }
        return torch.stack(
            [value.expand(self.model.instances) * coefficients[name] for name, value in terms.items()]
        ).sum(0)

    def before_update(self, step: int) -> None:
        if step < self.config.importance_warmup:
            for slot in [*self.model.V, *self.model.U]:
                slot.grad = None

    def after_step(self, step: int) -> None:
        self.steps_done.fill_(step + 1)

    def _stochastic_masks(self, importances: dict[str, Tensor], generator: torch.Generator) -> dict[str, SiteMask]:
        """m = g + (1 - g) r, delta ~ U(0, 1); in a `routed_share` of batches half the sites run clean."""
        names = list(importances)
        routed = float(torch.rand((), generator=generator)) < self.config.routed_share
        kept = torch.rand(len(names), generator=generator) < 0.5 if routed else torch.ones(len(names), dtype=torch.bool)
        if not bool(kept.any()):
            kept[int(torch.randint(len(names), (), generator=generator))] = True
        masks: dict[str, SiteMask] = {}
        for name, use in zip(names, kept.tolist(), strict=True):
            if use:
                g, delta = importances[name], None
                if self.config.stochastic_delta:
                    delta = torch.rand(g.shape[:2], generator=generator, dtype=g.dtype).to(g.device)
                masks[name] = InputMask(stochastic_mask(g, generator), delta)
        return masks

    def _alive_now_masks(self) -> dict[str, SiteMask]:
        return {site.name: SharedMask(self._alive_now(i)) for i, site in enumerate(self.model.sites)}

    def _alive_now(self, index: int) -> Tensor:
        """Alive in training: running maximum of g above the threshold; everything while too little has been seen."""
        recent: Tensor = getattr(self, f"recent_{index}")
        if int(self.steps_done) < self.config.alive_after:
            return torch.ones_like(recent)
        return (recent > self.config.alive_threshold).to(recent.dtype)

    @torch.no_grad()
    def _remember(self, importances: dict[str, Tensor]) -> None:
        for i, site in enumerate(self.model.sites):
            recent: Tensor = getattr(self, f"recent_{i}")
            peak = importances[site.name].flatten(1, -2).amax(1)
            torch.maximum(recent * self.config.alive_decay, peak, out=recent)
