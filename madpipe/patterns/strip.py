"""STRIP: does the output stay as sure when another input is laid over this one? A trigger may win over any overlay.

Gao, Xu, Wang, Chen, Ranasinghe, Nepal (2019). Images are added, as there, a sum staying within the range of the trusted
inputs' values; they lay a hundred over each input, we fewer.
"""

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import field_validator
from torch import Tensor

from madpipe.decomposition.statistics import takes_token_ids
from madpipe.errors import ConfigError
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import Observation
from madpipe.patterns.outputs import confidence
from madpipe.patterns.pattern import Patterns


class StripConfig(ExtractorConfig):
    """partners: trusted inputs laid over every input, the same for all."""

    partners: int = 32

    @field_validator("partners")
    @classmethod
    def _partners_are_some(cls, partners: int) -> int:
        if partners < 1:
            raise ValueError(f"should be at least 1, and is {partners}.")
        return partners


class Strip(Extractor):
    """One feature, `certainty`, higher = more suspicious: minus the mean entropy over blends, in nats; of a regression
    minus the variance of its outputs over blends, in units of their trusted variance.
    """

    Config = StripConfig
    name = "strip"
    config: StripConfig

    @property
    def passes(self) -> float:  # type: ignore[override]
        return 1.0 + self.config.partners

    def refusal(self) -> str:
        if takes_token_ids(self.method.model.target):
            return "the target looks its inputs up in an embedding, and token ids cannot be blended"
        return ""

    def fit(self, observations: Iterable[Observation]) -> None:
        """Draw the partners, with the extractor's seed, from all trusted fit rows."""
        if reason := self.refusal():
            raise ConfigError(f"patterns.strip: {reason}; leave strip out.")
        x = torch.cat([observation.x for observation in observations])
        drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))[: self.config.partners]
        self.tensors = {"partners": x[drawn.to(x.device)].clone(), "range": torch.stack([x.min(), x.max()])}

    def extract(self, observation: Observation) -> Patterns:
        target, (low, high) = self.method.model.target, self.tensors["range"]
        outputs = torch.stack([target((observation.x + p).clamp(low, high)) for p in self.tensors["partners"]])
        certainty = blend_certainty(outputs.flatten(2).double(), self.method.statistics.metric.kind)
        if self.method.statistics.metric.kind == "regression":
            certainty = certainty / self.method.statistics.metric.variance
        return Patterns(np.ascontiguousarray(certainty.cpu().numpy()[:, None]), ("certainty",), ("",))


def blend_certainty(outputs: Tensor, kind: str) -> Tensor:
    """[N, B, O] of N blends -> [B], higher = surer."""
    if kind == "regression":
        return -outputs.var(0, correction=0).mean(1)
    return -torch.stack([confidence(output, kind)["entropy"] for output in outputs]).mean(0)
