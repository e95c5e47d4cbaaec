"""What SPD and VPD share: rank-one slots that a causal importance function opens, and their prices.

The weight delta is W minus the sum of slots: either a masked channel of its own, where a Frobenius penalty on the sum
of alive slots (parsimony) leaves it what trusted inputs never excite, or held to zero by a faithfulness loss.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from madpipe.components.layers import SiteReading
from madpipe.components.masks import Masks
from madpipe.components.model import Forward
from madpipe.components.sites import Site
from madpipe.decomposition.causal_importance import importance_functions, leaky_hard_sigmoids
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
from madpipe.decomposition.sparsity import FIRST_PRICE, SHARE, DivergenceController
from madpipe.decomposition.subcomponent_config import SubcomponentConfig
from madpipe.decomposition.subcomponent_starts import start


class SubcomponentMethod(Method):
    """Each slot is a subcomponent of its own; its activity is the causal importance g in [0, 1]."""

    fused_updates: ClassVar[bool] = True
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
        start(self.model, self.importance, self._clean_logits, self.config.start, statistics, generator)
        if self.controller is not None:
            self.controller.target.fill_(self.config.target_divergence or SHARE * self._divergence_of_nothing())

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
        return {name: leaky_hard_sigmoids(value)[0] for name, value in self._clean_logits(clean).items()}

    def _readings(self, clean: Forward) -> dict[str, SiteReading]:
        """What each site reads in the clean pass, for every instance."""
        model, readings, record = self.model, {}, clean.recording
        for i, site in enumerate(model.sites):
            x = clean.site_inputs[site.name]
            own = x.expand(model.instances, *x.shape[1:]).reshape(-1, *x.shape[2:])
            readings[site.name] = model.reading(i, own, None if record is None else record.written(i))
        return readings

    def _clean_logits(self, clean: Forward) -> dict[str, Tensor]:
        return self._importance_logits(self._readings(clean))

    def _importance_logits(self, readings: Mapping[str, SiteReading]) -> dict[str, Tensor]:
        logits = self.importance([readings[site.name] for site in self.model.sites])
        return {site.name: value for site, value in zip(self.model.sites, logits, strict=True)}

    def _importances(
        self, batch: Batch, readings: Mapping[str, SiteReading]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This batch's importances, [S, B, *P, K] for each site, and the terms of their price."""
        logits = self._importance_logits(readings)
        both = {name: leaky_hard_sigmoids(value) for name, value in logits.items()}
        importances, penalised = {name: g for name, (g, _) in both.items()}, [upper for _, upper in both.values()]
        self._remember(importances)
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
        return self._distances(batch, self._masked(batch, masks, readings))

    def _distances(self, batch: Batch, masked: Forward) -> dict[str, Tensor]:
        """The terms of `_explain`, of a pass."""
        metric, clean = self.statistics.metric, batch.clean
        terms = {"divergence": batch.mean(metric.kl(clean.output, masked.output))}
        if self._weighs("distance"):
            terms["distance"] = batch.mean(metric.squared_distance(clean.output, masked.output))
        if self._weighs("hidden"):
            inputs, variances = (dict(clean.site_inputs), dict(masked.site_inputs)), self.statistics.hidden_variances
            terms["hidden"] = hidden_reconstruction(*inputs, dict(variances), batch.mean)
        return terms

    def _weighs(self, term: Literal["distance", "hidden", "parsimony"]) -> bool:
        return any(self._own_coefficient(f"{term}_coefficient"))

    def _masked(
        self, batch: Batch, masks: Masks, readings: Mapping[str, SiteReading], begun: Forward | None = None
    ) -> Forward:
        """The pass under `masks`, of which the first site to run reads what it reads in the clean pass.

        `begun`: a pass that begins alike, the clean one by default.
        """
        known = {name: readings[name] for name in first_masked(batch.clean, masks) if name in readings}
        return self.model.masked_forward(batch.x, masks, known, begun=begun or batch.clean, record=self.repeats_passes)

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


def first_masked(clean: Forward, masks: Masks) -> list[str]:
    """The first site to run of those in `masks`; none where there is none."""
    return [name for name in clean.site_inputs if name in masks][:1]
