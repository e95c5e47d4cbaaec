"""The target's own confidence: a control that looks at outputs alone. Higher = less sure, so more suspicious.

Categorical: 1 - max softmax (Hendrycks, Gimpel 2017), minus the free energy's negative log-sum-exp (Liu et al. 2020),
entropy in nats. Bernoulli: the same, per output and averaged. Regression: the output's distance from zero.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class Outputs(Extractor):
    name = "outputs"
    passes = 1.0

    def extract(self, observation: Observation) -> Patterns:
        logits = observation.clean.output[0].flatten(1).double()
        columns = confidence(logits, self.method.statistics.metric.kind)
        values = torch.stack(list(columns.values()), 1).cpu().numpy()
        return Patterns(np.ascontiguousarray(values), tuple(columns), ("",) * len(columns))


def confidence(logits: Tensor, kind: str) -> dict[str, Tensor]:
    """Statistics [B] of logits [B, O]."""
    if kind == "regression":
        return {"magnitude": logits.norm(dim=1)}
    if kind == "bernoulli":
        p = torch.sigmoid(logits)
        entropy = -(p * functional.logsigmoid(logits) + (1 - p) * functional.logsigmoid(-logits)).mean(1)
        return {
            "max_probability": 1 - torch.maximum(p, 1 - p).mean(1),
            "energy": -functional.softplus(logits.abs()).mean(1),
            "entropy": entropy,
        }
    log_p = functional.log_softmax(logits, 1)
    return {
        "max_probability": 1 - log_p.exp().amax(1),
        "energy": -torch.logsumexp(logits, 1),
        "entropy": -(log_p.exp() * log_p).sum(1),
    }
