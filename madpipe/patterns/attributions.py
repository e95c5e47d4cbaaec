"""Gradient attribution of every slot: the first-order effect of its removal, root mean square over outputs.

Of a component, a vector in parameter space: what its slots do to an output adds up before it is squared.
"""

from collections.abc import Sequence

from torch import Tensor

from madpipe.decomposition.attributions import slot_attributions, view_attributions
from madpipe.decomposition.component_view import ComponentView
from madpipe.patterns.extractor import SlotExtractor
from madpipe.patterns.observation import Observation


class Attributions(SlotExtractor):
    name = "attributions"

    def slots(self, observation: Observation) -> dict[str, Tensor]:
        return slot_attributions(self.method.model, observation.x)

    def components(self, observation: Observation, views: Sequence[ComponentView]) -> list[Tensor]:
        return view_attributions(self.method.model, observation.x, views)
