"""Settings that find known mechanisms: what toy tasks suggest to methods, measured on seed 0 (docs/decomposition.md).

Detection wants other settings: there, what trusted data never excite should leave the components.
"""

from collections.abc import Mapping
from typing import Any

SPD: dict[str, Any] = {
    "start": "sparse",
    "steps": 2000,
    "batch_size": 256,
    "input_noise": 0.0,
    "parsimony_coefficient": 0.0,
    "faithfulness_coefficient": 30.0,
    "importance_coefficient": 0.01,
    "importance_exponent": [2.0, 0.7],
    "importance_function": "slot",
    "importance_hidden": 8,
    "importance_warmup": 300,
    "mask_shares": [0.0, 0.0, 1.0],
    "stochastic_delta": False,
    "routed_share": 0.0,
    "layerwise_coefficient": 1.0,
    "variants": [{"name": "spd", "distance_coefficient": 0.0}],
}

VPD: dict[str, Any] = {
    "start": "sparse",
    "steps": 2000,
    "batch_size": 256,
    "input_noise": 0.0,
    "importance_coefficient": 0.01,
    "importance_warmup": 300,
}

APD: dict[str, Any] = {
    "start": "sparse",
    "components": None,
    "top_k": None,
    "steps": 600,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "input_noise": 0.0,
    "simplicity_coefficient": 0.02,
}

RECOVERY: Mapping[str, Mapping[str, Any]] = {"spd": SPD, "apd": APD, "vpd": VPD}

# Of wide sites: a step of Adam moves a direction of a thousand entries by thirty times what it moves one of one entry,
# so that slots train last, at small steps.
WIDE: Mapping[str, Mapping[str, Any]] = {"spd": {**SPD, "steps": 1000, "importance_warmup": 700}}
