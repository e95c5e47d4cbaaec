"""How far each slot may not be ablated on this input, in [0, 1]; for APD, whether the component is switched on."""

from madpipe.patterns.extractor import Extractor, slot_patterns
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns
from madpipe.patterns.pooling import largest


class CausalImportances(Extractor):
    name = "causal_importances"

    def extract(self, observation: Observation) -> Patterns:
        values = {name: largest(g) for name, g in observation.activity.items()}
        return slot_patterns(values, self.method.model.sites, self.method.variant_names)
