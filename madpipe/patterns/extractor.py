"""The contract of an extractor: from an observation to one row of features per input.

And of those with a feature for each slot, or for each component, which differ in what they say of a slot.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from madpipe.components.sites import Site
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.method import Method
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class ExtractorConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Extractor(ABC):
    """Learns what it needs from trusted fit rows, then gives features that do not depend on the rest of the batch.

    `fitted_rows` says on which trusted rows detectors of these features may be fitted: "validation" where features of
    the rows that the decomposition was trained on are smaller than those of fresh rows. `passes` is what a row costs in
    forward passes of the target, the clean one counted; None where nobody has counted.
    """

    Config: ClassVar[type[ExtractorConfig]] = ExtractorConfig
    name: ClassVar[str]
    fitted_rows: ClassVar[Literal["fit", "validation"]] = "fit"
    passes: float | None = None

    def __init__(self, config: ExtractorConfig, method: Method, seed: int = 0):
        self.config, self.method, self.seed = config, method, seed
        self.tensors: dict[str, Tensor] = {}

    def fit(self, observations: Iterable[Observation]) -> None:  # noqa: B027  most extractors learn nothing
        """Fill `tensors` from observations of trusted fit rows. Nothing by default."""

    @abstractmethod
    def extract(self, observation: Observation) -> Patterns:
        """Features [B, F] in the order of the batch."""

    @property
    def shared(self) -> bool:
        """Whether folds may share it: it learns nothing but scales, and reads no passes but clean and `alive` ones."""
        return False

    def refusal(self) -> str:
        """Why this target cannot be read in this way, as the end of an error; empty where it can."""
        return ""

    def state(self) -> Mapping[str, Tensor]:
        """What `fit` learned, to be stored."""
        return self.tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, in the precision and on the device of the method."""
        like = self.method.model.V[0]
        self.tensors = {name: value.to(like) for name, value in tensors.items()}


class SlotConfig(ExtractorConfig):
    """view: whether there is a feature for each subcomponent (in APD: each slot), or for each component."""

    view: Literal["subcomponents", "components"] = "subcomponents"


class SlotExtractor(Extractor):
    """Features `<variant>:<site>.<k>` of slots, or `<variant>:component.<n>` of components."""

    Config: ClassVar[type[ExtractorConfig]] = SlotConfig
    config: SlotConfig

    def extract(self, observation: Observation) -> Patterns:
        if self.config.view == "subcomponents":
            return slot_patterns(self.slots(observation), self.method.model.sites, self.method.variant_names)
        views = self.method.component_views()
        return component_patterns(self.components(observation, views), views, self.method.variant_names)

    @abstractmethod
    def slots(self, observation: Observation) -> Mapping[str, Tensor]:
        """site -> [S, B, K]."""

    def components(self, observation: Observation, views: Sequence[ComponentView]) -> list[Tensor]:
        """Of each instance [B, G]: of a component's slots the value of largest magnitude."""
        values = self.slots(observation)
        return [view.largest({site: value[s] for site, value in values.items()}) for s, view in enumerate(views)]


def slot_patterns(values: Mapping[str, Tensor], sites: Sequence[Site], variants: Sequence[str]) -> Patterns:
    """site -> [S, B, K] as features `<variant>:<site>.<k>`, float32."""
    blocks, names, owners = [], [], []
    for site in sites:
        value = values[site.name].float()
        for s, variant in enumerate(variants):
            blocks.append(value[s].cpu().numpy())
            names += [f"{variant}:{site.name}.{k}" for k in range(value.shape[-1])]
            owners += [site.name] * value.shape[-1]
    return Patterns(np.concatenate(blocks, axis=1), tuple(names), tuple(owners))


def component_patterns(values: Sequence[Tensor], views: Sequence[ComponentView], variants: Sequence[str]) -> Patterns:
    """[B, G] of each instance as features `<variant>:component.<n>`, float32; a feature's site: all it spans."""
    names = tuple(f"{variant}:{name}" for variant, view in zip(variants, views, strict=True) for name in view.names)
    spans = tuple(span for view in views for span in view.spans)
    return Patterns(np.concatenate([value.float().cpu().numpy() for value in values], axis=1), names, spans)
