"""Raw activations, the baseline of the field: the inputs of the hidden sites and the output of the clean pass.

Positions are kept, one feature each. The predicted class, if asked for, is a last column for detectors that hold a row
to its own class: argmax of one categorical's logits (at the last position, if there are several); which of at most 24
independent outputs are on, read as a binary number; else 0, since real outputs have no classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from madpipe.errors import unknown
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import PREDICTED_CLASS, Patterns

LARGEST_PATTERN = 24


class ActivationsConfig(ExtractorConfig):
    layers: tuple[str, ...] = ("*",)  # site names, or "last" for the penultimate layer alone
    output: bool = True
    predicted_class: bool = False


class Activations(Extractor):
    Config = ActivationsConfig
    name = "activations"
    passes = 1.0
    config: ActivationsConfig

    def extract(self, observation: Observation) -> Patterns:
        clean = observation.clean
        blocks = {name: clean.site_inputs[name][0].flatten(1) for name in self._chosen()}
        if self.config.output or not blocks:
            blocks["output"] = clean.output[0].flatten(1)
        return with_predicted_class(blocks, observation) if self.config.predicted_class else site_patterns(blocks)

    def _chosen(self) -> list[str]:
        hidden, wanted = self.method.hidden_sites(), self.config.layers
        if wanted == ("last",):
            return hidden[-1:]
        for name in wanted:
            if name != "*" and name not in hidden:
                raise unknown("hidden layer", name, ["*", "last", *hidden], "patterns.activations.layers: ")
        return [name for name in hidden if "*" in wanted or name in wanted]


def site_patterns(blocks: Mapping[str, Tensor]) -> Patterns:
    """site -> [B, F] as features `<site>.<i>`, float32."""
    values = torch.cat(list(blocks.values()), 1).float().cpu().numpy()
    names = tuple(f"{name}.{i}" for name, block in blocks.items() for i in range(block.shape[1]))
    owners = tuple(name for name, block in blocks.items() for _ in range(block.shape[1]))
    return Patterns(np.ascontiguousarray(values), names, owners)


def with_predicted_class(blocks: Mapping[str, Tensor], observation: Observation) -> Patterns:
    """`site_patterns` with a last column `predicted_class`."""
    patterns, metric = site_patterns(blocks), observation.method.statistics.metric
    output = observation.clean.output[0]
    logits = output.reshape(len(output), -1, output.shape[-1])[:, -1]
    classes = predicted_class(logits, metric.kind)
    values = np.concatenate([patterns.values, classes.float().cpu().numpy()[:, None]], axis=1)
    return Patterns(values, (*patterns.features, PREDICTED_CLASS), (*patterns.sites, PREDICTED_CLASS))


def predicted_class(logits: Tensor, kind: str) -> Tensor:
    """[B, O] -> [B], whole numbers below 2^24, which float32 holds exactly."""
    if kind == "categorical":
        return logits.argmax(1)
    if kind == "bernoulli" and logits.shape[1] <= LARGEST_PATTERN:
        return ((logits > 0) * 2 ** torch.arange(logits.shape[1], device=logits.device)).sum(1)
    return torch.zeros(len(logits))
