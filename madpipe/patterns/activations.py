"""Raw activations, the baseline of the field: the inputs of the hidden sites and the output of the clean pass."""

import numpy as np
import torch

from madpipe.errors import unknown
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class ActivationsConfig(ExtractorConfig):
    layers: tuple[str, ...] = ("*",)  # site names, or "last" for the penultimate layer alone
    output: bool = True


class Activations(Extractor):
    Config = ActivationsConfig
    name = "activations"
    config: ActivationsConfig

    def extract(self, observation: Observation) -> Patterns:
        clean = observation.clean
        blocks = {name: clean.site_inputs[name][0].flatten(1) for name in self._chosen()}
        if self.config.output or not blocks:
            blocks["output"] = clean.output[0].flatten(1)
        values = torch.cat(list(blocks.values()), 1).float().cpu().numpy()
        names = tuple(f"{name}.{i}" for name, block in blocks.items() for i in range(block.shape[1]))
        owners = tuple(name for name, block in blocks.items() for _ in range(block.shape[1]))
        return Patterns(np.ascontiguousarray(values), names, owners)

    def _chosen(self) -> list[str]:
        hidden, wanted = self.method.hidden_sites(), self.config.layers
        if wanted == ("last",):
            return hidden[-1:]
        for name in wanted:
            if name != "*" and name not in hidden:
                raise unknown("hidden layer", name, ["*", "last", *hidden], "patterns.activations.layers: ")
        return [name for name in hidden if "*" in wanted or name in wanted]
