"""What SPD and VPD share: rank-one slots that a causal importance function opens, their starts, their prices.

Three starts. `weights`, the default, begins at W on the directions that trusted inputs excite. `zero` grows from near
zero only what trusted data need. `sparse` begins at few rank-one atoms, each of use on few inputs (sparse_start.py).
The weight delta is W minus the sum of slots: either a masked channel of its own, where a Frobenius penalty on the sum
of alive slots (parsimony) leaves it what trusted inputs never excite, or held to zero by a faithfulness loss.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from madpipe.components.layers import SiteReading
from madpipe.components.masks import Masks
from madpipe.components.model import Forward
from madpipe.components.sites import Site
from madpipe.decomposition.causal_importance import (
    ImportanceFunction,
    importance_functions,
    lower_leaky_hard_sigmoid,
    upper_leaky_hard_sigmoid,
)
from madpipe.decomposition.importance_start import fit_importances
from madpipe.decomposition.initialisation import start_at_atoms, start_at_weights, start_near_zero
from madpipe.decomposition.losses import (
    frequency,
    hidden_reconstruction,
    importance_minimality,
    parsimony,
    relative_faithfulness,
    smooth_l0,
)
from madpipe.decomposition.method import Batch, Method, MethodConfig, TrustedStatistics
from madpipe.decomposition.optimisation import clip_gradients
from madpipe.decomposition.processes import average_in_place, highest_of_all, mean_of_all
from madpipe.decomposition.schedules import geometric, linear
from madpipe.decomposition.sparse_start import SparseForm, sparse_forms
from madpipe.decomposition.sparsity import FIRST_PRICE, SHARE, DivergenceController


class Variant(BaseModel):
    """One of the decompositions trained side by side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hidden_coefficient: float = 0.0  # match hidden activations too, not outputs alone
    distance_coefficient: float = 1.0  # match raw outputs too, not the distribution they stand for alone
    parsimony_coefficient: float | None = None  # None: that of the method
    importance_coefficient: float | None = None  # None: that of the method


class SubcomponentConfig(MethodConfig):
    """Defaults are those of SPD, measured on the Boolean and digits tasks (docs/detection.md)."""

    components: int | None = None  # slots per site; None: clip(2 * rank, 32, 128), clip(8 * rank, 20, 256) if sparse
    start: Literal["zero", "weights", "sparse"] = "weights"
    parsimony_coefficient: float = 1.0
    faithfulness_coefficient: float = 0.0  # on |W - sum|^2 / |W|^2
    faithfulness_warmup: int = 0  # first steps, on faithfulness alone
    importance_coefficient: float | Literal["auto"] = 1e-3  # nats per active slot and input; auto: see sparsity.py
    target_divergence: float | None = Field(default=None, gt=0)  # of auto, nats per input; None: SHARE of all slots'
    importance_penalty: Literal["lp", "smooth_l0"] = "lp"
    importance_exponent: tuple[float, float] = (2.0, 0.5)  # p of lp at the start and at the end of training
    importance_width: tuple[float, float] = (1.0, 0.01)  # width of smooth_l0 at the start and at the end
    importance_function: ImportanceFunction = "site"
    importance_warmup: int = 0  # steps, after those of faithfulness, in which slots stay: a good start is not spoilt
    importance_hidden: int = 64  # units of each importance function; 16 a slot in SPD
    importance_clip: float | None = Field(
        default=None, gt=0
    )  # largest gradient norm of an instance's importance functions
    frequency_coefficient: float = 0.0  # against unrelated mechanisms in one slot (VPD)
    frequency_scale: float = 100.0
    alive_decay: float = 0.8  # per batch with importances, of the running maximum of each slot's importance
    alive_after: int = 100  # steps before the running maximum is trusted
    alive_threshold: float = 0.1
    variants: tuple[Variant, ...]


class SubcomponentMethod(Method):
    """Each slot is a subcomponent of its own; its activity is the causal importance g in [0, 1]."""

    config: SubcomponentConfig
    hidden_weight: Tensor
    distance_weight: Tensor
    parsimony_weight: Tensor
    importance_weight: Tensor
    steps_done: Tensor

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: SubcomponentConfig, instances: int):
        super().__init__(target, sites, config, instances)
        slots = self.model.slots
        self.importance = importance_functions(
            config.importance_function, sites, slots, instances, config.importance_hidden
        )
        for i, k in enumerate(slots):
            self.register_buffer(f"recent_{i}", torch.ones(instances, k))
        for coefficient in ("hidden", "distance", "parsimony", "importance"):
            self.register_buffer(f"{coefficient}_weight", self._of_variants(f"{coefficient}_coefficient"))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.long))
        self.controller = DivergenceController(instances) if config.importance_coefficient == "auto" else None

    def _of_variants(self, name: str) -> Tensor:
        """One coefficient per instance, [S]."""
        values = self._own_coefficient(name)
        return torch.tensor(values).repeat(self.model.instances // len(values))

    def _own_coefficient(self, name: str) -> list[float]:
        """One per variant: its own, or the method's."""
        own = [getattr(variant, name) for variant in self.config.variants]
        values = [getattr(self.config, name) if value is None else value for value in own]
        return [FIRST_PRICE if value == "auto" else value for value in values]

    @classmethod
    def variants(cls, config: MethodConfig) -> list[str]:
        assert isinstance(config, SubcomponentConfig)
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
        forms = self._start_sparse(generator) if self.config.start == "sparse" else []
        for i, site in enumerate(self.model.sites):
            if self.config.start == "zero":
                start_near_zero(self.model, i, statistics.spans[site.name], generator)
            elif self.config.start == "weights":
                start_at_weights(self.model, i, statistics.spans[site.name], generator)
            self.importance[i].initialise(generator)  # type: ignore[operator]
        if forms:
            self._start_importances(forms)
        if self.controller is not None:
            self.controller.target.fill_(self.config.target_divergence or SHARE * self._divergence_of_nothing())

    def _start_sparse(self, generator: torch.Generator) -> list[dict[str, SparseForm]]:
        """Every instance at sparse forms of its own, which are given back."""
        model, statistics, found = self.model, self.statistics, []
        for s in range(model.instances):
            forms = sparse_forms(model.target, model.sites, statistics.sample, statistics.metric, generator)
            for i, site in enumerate(model.sites):
                start_at_atoms(model, i, s, forms[site.name], generator)
            found.append(forms)
        return found

    def _start_importances(self, forms: Sequence[Mapping[str, SparseForm]]) -> None:
        """Importance functions open the slots that are of use, on the rows where that was seen."""
        model = self.model
        rows = [next(iter(own.values())).rows for own in forms]
        clean = model.masked_forward(torch.cat([self.statistics.sample[own] for own in rows]), {})
        used = {
            site.name: torch.stack([_on_slots(own[site.name].used, k) for own in forms])
            for site, k in zip(model.sites, model.slots, strict=True)
        }

        def logits() -> dict[str, Tensor]:
            return self._importance_logits(self._readings(clean))

        fit_importances(logits, used, self.importance.parameters())

    @torch.no_grad()
    def _divergence_of_nothing(self) -> float:
        """KL in nats per input of the pass without any slot and without the delta."""
        x = self.statistics.sample
        without = self.model.perturbed_forward(x, lambda index, site_input, y: torch.zeros_like(y))
        return float(self.statistics.metric.kl(self.model.clean_forward(x).output, without.output).mean())

    def _steer(self, divergence: Tensor, progress: float) -> None:
        """Move the price of slots towards the target divergence; a variant with a price of its own keeps it."""
        if self.controller is None:
            return
        whole = divergence.detach().clone()
        average_in_place([whole])
        self.controller.update(whole, progress)
        fixed = [variant.importance_coefficient is not None for variant in self.config.variants] * self.seeds
        moved = torch.where(
            torch.tensor(fixed, device=whole.device), self.importance_weight, self.controller.coefficient
        )
        self.importance_weight.copy_(moved)

    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """Causal importances g in [0, 1]."""
        logits = self._importance_logits(self._readings(clean))
        return {name: lower_leaky_hard_sigmoid(value) for name, value in logits.items()}

    def _readings(self, clean: Forward) -> dict[str, SiteReading]:
        """What each site reads in the clean pass, for every instance."""
        model, readings = self.model, {}
        for i, site in enumerate(model.sites):
            x = clean.site_inputs[site.name]
            own = x.expand(model.instances, *x.shape[1:]).reshape(-1, *x.shape[2:])
            readings[site.name] = model.reading(i, own)
        return readings

    def _importance_logits(self, readings: Mapping[str, SiteReading]) -> dict[str, Tensor]:
        logits = self.importance([readings[site.name] for site in self.model.sites])
        return {site.name: value for site, value in zip(self.model.sites, logits, strict=True)}

    def _importances(
        self, batch: Batch, readings: Mapping[str, SiteReading]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This batch's importances, [S, B, *P, K] for each site, and the terms of their price."""
        logits = self._importance_logits(readings)
        importances = {name: lower_leaky_hard_sigmoid(value) for name, value in logits.items()}
        self._remember(importances)
        penalised = [upper_leaky_hard_sigmoid(value) for value in logits.values()]
        terms = {"importance_minimality": self._minimality(penalised, batch)}
        if self.config.frequency_coefficient:
            terms["frequency"] = frequency(penalised, self.config.frequency_scale, mean_of_all)
        return importances, terms

    def _minimality(self, importances: list[Tensor], batch: Batch) -> Tensor:
        config, progress = self.config, batch.progress
        if config.importance_penalty == "smooth_l0":
            return smooth_l0(importances, geometric(progress, *config.importance_width), batch.mean)
        return importance_minimality(importances, linear(progress, *config.importance_exponent), batch.mean)

    def _explain(self, batch: Batch, masks: Masks, readings: Mapping[str, SiteReading]) -> dict[str, Tensor]:
        """How far the pass under `masks` is from the clean one: KL, raw outputs, hidden activations.

        The last two only where a variant weighs them.
        """
        metric, clean = self.statistics.metric, batch.clean
        masked = self._masked(batch, masks, readings)
        terms = {"divergence": batch.mean(metric.kl(clean.output, masked.output))}
        if self._weighs("distance"):
            terms["distance"] = batch.mean(metric.squared_distance(clean.output, masked.output))
        if self._weighs("hidden"):
            inputs, variances = (dict(clean.site_inputs), dict(masked.site_inputs)), self.statistics.hidden_variances
            terms["hidden"] = hidden_reconstruction(*inputs, dict(variances), batch.mean)
        return terms

    def _weighs(self, term: Literal["distance", "hidden", "parsimony"]) -> bool:
        return any(self._own_coefficient(f"{term}_coefficient"))

    def _masked(self, batch: Batch, masks: Masks, readings: Mapping[str, SiteReading]) -> Forward:
        """The pass under `masks`, of which the first site to run reads what it reads in the clean pass."""
        running = [name for name in batch.clean.site_inputs if name in masks]
        known = {name: readings[name] for name in running[:1] if name in readings}
        return self.model.masked_forward(batch.x, masks, known)

    @property
    def _warming_up(self) -> bool:
        """Whether faithfulness alone counts."""
        return int(self.steps_done) < self.config.faithfulness_warmup

    def _faithfulness(self) -> Tensor:
        sites = range(len(self.model.sites))
        return relative_faithfulness([self.model.delta(i) for i in sites], [self.model.weight(i) for i in sites])

    def _weight_losses(self) -> dict[str, Tensor]:
        sites = range(len(self.model.sites))
        terms = {}
        if self._weighs("parsimony"):
            sums = [self.model.component_sum(i, self._alive_now(i)) for i in sites]
            terms["parsimony"] = parsimony(sums, [self.model.weight(i) for i in sites])
        if self.config.faithfulness_coefficient:
            terms["faithfulness"] = self._faithfulness()
        return terms

    def _coefficients(self) -> dict[str, float | Tensor]:
        """Of each loss term."""
        return {
            "divergence": 1.0,
            "distance": self.distance_weight,
            "hidden": self.hidden_weight,
            "importance_minimality": self.importance_weight,
            "parsimony": self.parsimony_weight,
            "faithfulness": self.config.faithfulness_coefficient,
            "frequency": self.config.frequency_coefficient,
        }

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, [S]."""
        coefficients = self._coefficients()
        return torch.stack(
            [value.expand(self.model.instances) * coefficients[name] for name, value in terms.items()]
        ).sum(0)

    def _with_total(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is minimised, its terms, and the price of slots where that is found."""
        found = {} if self.controller is None else {"importance_coefficient": self.importance_weight.clone()}
        return {"total": self._total(terms), **terms, **found}

    def before_update(self, step: int) -> None:
        config = self.config
        if 0 <= step - config.faithfulness_warmup < config.importance_warmup:
            for slot in [*self.model.V, *self.model.U]:
                slot.grad = None
        if config.importance_clip is not None:
            clip_gradients(self.importance.parameters(), config.importance_clip)

    def after_step(self, step: int) -> None:
        self.steps_done.fill_(step + 1)

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
            peak = highest_of_all(importances[site.name].flatten(1, -2).amax(1))
            torch.maximum(recent * self.config.alive_decay, peak, out=recent)


def _on_slots(used: Tensor, slots: int) -> Tensor:
    """[N, n] of the first n of `slots` slots, of which the others are of no use: [N, slots]."""
    kept = used[:, :slots]
    return nn.functional.pad(kept, (0, slots - kept.shape[1]))
