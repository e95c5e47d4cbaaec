"""Gradient attribution of every slot: the first-order effect of its removal, root mean square over outputs."""

from madpipe.decomposition.attributions import slot_attributions
from madpipe.patterns.extractor import Extractor, slot_patterns
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns


class Attributions(Extractor):
    name = "attributions"

    def extract(self, observation: Observation) -> Patterns:
        values = slot_attributions(self.method.model, observation.x)
        return slot_patterns(values, self.method.model.sites, self.method.variant_names)
