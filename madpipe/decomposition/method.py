"""The contract of a decomposition method, and what all methods share: alive sets, groups of slots, explained masks."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, field_validator
from torch import Tensor, nn

from madpipe.components.masks import FixedWeights, SharedMask, SiteMask
from madpipe.components.model import ComponentModel, Forward
from madpipe.components.share import WHOLE, Share
from madpipe.components.sites import Site
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.losses import OutputMetric, per_instance_mean
from madpipe.decomposition.merged_rows import MergedRows, silent_at_zero
from madpipe.errors import ConfigError

VARIANT_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # stands in feature names, metrics and file names


class MethodConfig(BaseModel):
    """What every method is told. Subclasses add their own settings beside their class.

    Limits hold by a setting's name, so that a subclass which changes a default, or adds `components` or `rank`, keeps
    them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: int = 1  # starts trained side by side, each with batches of its own; one of them is used
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 3e-3
    input_noise: float = 0.1  # augmentation: noise of this share of each input's own standard deviation

    @field_validator("seeds", "steps", "batch_size", "components", "rank", mode="after", check_fields=False)
    @classmethod
    def _counts_are_positive(cls, count: Any) -> Any:
        if isinstance(count, int) and count < 1:
            raise ValueError(f"should be at least 1, and is {count}.")
        return count

    @field_validator("variants", mode="after", check_fields=False)
    @classmethod
    def _variants_have_names_of_their_own(cls, variants: Any) -> Any:
        names = [str(variant.name) for variant in variants]
        if not names or len(set(names)) < len(names) or not all(VARIANT_NAME.fullmatch(name) for name in names):
            raise ValueError("needs one or more, each with a name of its own of letters, digits, '_', '-' and '.'.")
        return variants

    @field_validator("learning_rate", mode="after")
    @classmethod
    def _learning_rate_is_positive(cls, rate: float) -> float:
        if not 0 < rate < float("inf"):
            raise ValueError(f"should be a number above 0, and is {rate}.")
        return rate


@dataclass(frozen=True)
class TrustedStatistics:
    """What a method may know of trusted data before training: everything is taken on fit rows.

    `input_std` has an input's shape; `hidden_variances` is a variance per hidden site input; `spans` an orthonormal
    basis [I, k] per site, of the directions its trusted inputs use. `sample` [n, ...] is some of the rows themselves,
    for starts that read them; it is not stored with a decomposition.
    """

    input_std: Tensor
    hidden_variances: Mapping[str, float]
    spans: Mapping[str, Tensor]
    metric: OutputMetric
    sample: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Batch:
    """x [S*B, ...] with its clean pass (shapes [S, B, ...]) and the only source of randomness of a step."""

    x: Tensor
    clean: Forward
    generator: torch.Generator
    progress: float
    share: Share = WHOLE  # the rows of x, of the batch that processes train on together; `generator` is alike in all
    merged: MergedRows | None = None  # inputs without effect stand in x once; None: every row stands for itself

    def mean(self, values: Tensor) -> Tensor:
        """Over the inputs that were drawn, and positions: [S, B, ...] -> [S]."""
        return per_instance_mean(values) if self.merged is None else self.merged.mean(values)

    def mean_over_inputs(self, values: Tensor) -> Tensor:
        """Over the inputs that were drawn alone: [S, B, ...] -> [S, ...]."""
        if self.merged is None:
            return values.mean(1)
        return torch.einsum("sb,sb...->s...", self.merged.weights.to(values.dtype), values)

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """U(0, 1) of `shape` [S, B, ...], of the type and device of `like`; a row's are the same if others merged."""
        if self.merged is None:
            return self.share.uniform(shape, self.generator, like.dtype).to(like.device)
        drawn = self.share.uniform((shape[0], self.merged.drawn, *shape[2:]), self.generator, like.dtype)
        return self.merged.of(drawn.to(like.device))


class Method(nn.Module, ABC):
    """A ComponentModel with a training objective. After `settle`, `alive` says which slots trusted data need."""

    Config: ClassVar[type[MethodConfig]]
    name: ClassVar[str]
    spans_sites: ClassVar[bool] = False  # a component is slots of every site, not one slot of one site
    fused_updates: ClassVar[bool] = False  # clipping and Adam in one pass each, rounded in another order

    model: ComponentModel
    statistics: TrustedStatistics
    clusters: tuple[ComponentView, ...] | None = None  # per instance, once subcomponents are grouped (grouping.py)

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: MethodConfig, instances: int):
        super().__init__()
        self.config = config
        self.model = ComponentModel(target, sites, [self.slots(site) for site in sites], instances)
        for i, k in enumerate(self.model.slots):
            self.register_buffer(f"alive_{i}", torch.ones(instances, k, dtype=torch.bool))

    @classmethod
    @abstractmethod
    def variants(cls, config: MethodConfig) -> list[str]:
        """Names of the decompositions one fit trains side by side, each with settings of its own."""

    @abstractmethod
    def slots(self, site: Site) -> int:
        """K at a site."""

    @abstractmethod
    def initialise(self, statistics: TrustedStatistics, generator: torch.Generator) -> None:
        """Set every parameter; called once, before the first step."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms by name, each [S]; `total` is what is minimised."""

    @abstractmethod
    def activity(self, clean: Forward, x: Tensor) -> dict[str, Tensor]:
        """How active each slot is on each of [B] inputs, at each position: site -> [S, B, *P, K], 0 = off."""

    @property
    def merges_rows(self) -> bool:
        """Whether `losses` takes batches whose inputs without effect are merged (merged_rows.py)."""
        return False

    @property
    def repeats_passes(self) -> bool:
        """Whether `losses` takes several passes of a batch, so that it pays to record the clean one (routing.py)."""
        return False

    @cached_property
    def silent_at_zero(self) -> bool:
        """Whether no site reads anything of an input of zeros."""
        return silent_at_zero(self.model, self.statistics.input_std.to(next(self.parameters()).device))

    @property
    def variant_names(self) -> list[str]:
        return self.variants(self.config)

    @property
    def seeds(self) -> int:
        """How many starts were trained side by side; instance = seed * variants + variant."""
        return self.model.instances // len(self.variant_names)

    def matches_output(self) -> list[bool]:
        """Per variant, whether its explained output is asked for: each variant answers for what it was trained for."""
        return [True] * len(self.variant_names)

    def matches_hidden(self) -> list[bool]:
        """Per variant, whether it was trained to reproduce hidden activations: only then is their residual evidence."""
        return [True] * len(self.variants(self.config))

    def hidden_sites(self) -> list[str]:
        """Sites whose input is not the network's own input, in the order of the sites."""
        return [site.name for site in self.model.sites if site.name in self.statistics.hidden_variances]

    @abstractmethod
    def component_names(self) -> list[str]:
        """Names of components, the same for every instance."""

    @property
    def slots_per_component(self) -> int:
        """How many slots of a site, one after another, make up one component there."""
        return 1

    @property
    def has_components(self) -> bool:
        """Whether it is known which slots make up each component."""
        return self.spans_sites or self.clusters is not None

    def component_views(self) -> tuple[ComponentView, ...]:
        """Which slots make up each component, per instance; ConfigError where subcomponents were not grouped."""
        if self.spans_sites:
            sites = zip(self.model.sites, self.model.slots, strict=True)
            labels = {site.name: torch.arange(k) // self.slots_per_component for site, k in sites}
            return (ComponentView(labels, self.model.slots[0] // self.slots_per_component),) * self.model.instances
        if self.clusters is None:
            raise ConfigError("clustering.enabled: false leaves a decomposition without components; set it to true.")
        return self.clusters

    def part_name(self, index: int, slot: int) -> str:
        """What a slot of site `index` is called where parts of the network are named."""
        return f"{self.model.sites[index].name}.{slot}"

    @property
    def draws(self) -> bool:
        """Whether losses draw from a batch's generator."""
        return True

    def before_update(self, step: int) -> None:
        """Called with gradients in place, before they are clipped: a parameter whose gradient is None stays."""

    def after_step(self, step: int) -> None:
        """Whatever a method keeps from step to step besides its parameters."""

    def alive(self, index: int) -> Tensor:
        """Slots of site `index` that some trusted input needs, bool [S, K]."""
        alive: Tensor = getattr(self, f"alive_{index}")
        return alive

    def alive_masks(self, delta: float = 0.0) -> dict[str, SiteMask]:
        """Alive slots at one, dead ones at zero, the weight delta at `delta`: the trusted mechanisms alone."""
        return {
            site.name: SharedMask(self.alive(i).to(self.model.V[i].dtype), delta)
            for i, site in enumerate(self.model.sites)
        }

    def all_slots_masks(self) -> dict[str, SiteMask]:
        """Every slot at one, alive or not, the weight delta removed."""
        return {
            site.name: SharedMask(torch.ones_like(self.model.U[i][:, :, 0])) for i, site in enumerate(self.model.sites)
        }

    def alive_weights(self) -> dict[str, FixedWeights]:
        """The alive masks as rebuilt weights, for scoring many batches."""
        model = self.model
        return {
            site.name: FixedWeights(model.masked_weight(i, self.alive(i).to(model.V[i].dtype)))
            for i, site in enumerate(model.sites)
        }

    @torch.no_grad()
    def settle(self, chunks: Sequence[Tensor], threshold: float = 0.1) -> None:
        """Set the alive sets: activity above `threshold` somewhere on trusted data, given in chunks [B, ...]."""
        highest = [torch.zeros_like(self.alive(i), dtype=torch.float32) for i in range(len(self.model.sites))]
        for x in chunks:
            activity = self.activity(self.model.clean_forward(x), x)
            for i, site in enumerate(self.model.sites):
                peak = activity[site.name].flatten(1, -2).amax(1).float()
                highest[i] = torch.maximum(highest[i], peak)
        for i, peak in enumerate(highest):
            self.alive(i).copy_(peak > threshold)
