"""Control: the target fine-tuned on trusted data under strong weight decay; how far do the two disagree?"""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from madpipe.patterns.copies import disagreement, fit_copy
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class CopyConfig(ExtractorConfig):
    steps: int = 2000
    learning_rate: float = 1e-3
    weight_decay: float = 3.0


class TrustedCopy(Extractor):
    """Starts at the target's weights. Defaults were the best of three decays on the digits and Boolean tasks."""

    Config = CopyConfig
    name = "trusted_copy"
    passes = 2.0
    fitted_rows = "validation"
    config: CopyConfig
    module: nn.Module | None = None

    def fit(self, observations: Iterable[Observation]) -> None:
        x = torch.cat([observation.x for observation in observations]).float()
        target = copy.deepcopy(self.method.model.target).float()
        config = self.config
        self.module = fit_copy(
            self.start(target),
            target,
            x,
            self.method.statistics.metric,
            steps=config.steps,
            rate=config.learning_rate,
            decay=config.weight_decay,
            seed=self.seed,
        ).to(self.method.model.V[0].dtype)
        self.tensors = dict(self.module.state_dict())

    def start(self, target: nn.Module) -> nn.Module:
        return copy.deepcopy(target)

    def extract(self, observation: Observation) -> Patterns:
        if self.module is None:
            self.module = copy.deepcopy(self.method.model.target)
            self.module.load_state_dict(self.tensors)
        values = disagreement(self.method.statistics.metric, observation.clean.output[0], self.module(observation.x))
        columns = torch.stack(list(values.values()), 1).double().cpu().numpy()
        return Patterns(np.ascontiguousarray(columns), tuple(values), ("",) * len(values))
