"""The raw input, flattened: a control. Where its detectors win, the task is input novelty and not mechanism."""

import numpy as np

from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class Inputs(Extractor):
    name = "inputs"
    passes = 0.0

    def extract(self, observation: Observation) -> Patterns:
        values = np.ascontiguousarray(observation.x.flatten(1).float().cpu().numpy())
        names = tuple(f"x.{i}" for i in range(values.shape[1]))
        return Patterns(values, names, ("",) * len(names))
