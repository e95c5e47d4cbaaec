"""How far each slot may not be ablated on this input, in [0, 1]; for APD, whether the component is switched on."""

from torch import Tensor

from madpipe.patterns.extractor import SlotExtractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pooling import largest


class CausalImportances(SlotExtractor):
    name = "causal_importances"

    def slots(self, observation: Observation) -> dict[str, Tensor]:
        return {name: largest(g) for name, g in observation.activity.items()}
