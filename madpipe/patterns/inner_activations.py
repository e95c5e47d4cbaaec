"""Inner activations V[:, c] . x times |U[c]|: how strongly each slot reads the clean input of its site, and writes."""

from torch import Tensor

from madpipe.patterns.extractor import SlotExtractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pooling import largest


class InnerActivations(SlotExtractor):
    name = "inner_activations"

    def slots(self, observation: Observation) -> dict[str, Tensor]:
        sites = enumerate(self.method.model.sites)
        return {site.name: largest(written_activations(observation, i)) for i, site in sites}


def written_activations(observation: Observation, index: int) -> Tensor:
    """(V[:, k] . x) |U[k]| at site `index`: [S, B, *P, K]."""
    model = observation.method.model
    x = observation.clean.site_inputs[model.sites[index].name]
    repeated = x.expand(model.instances, *x.shape[1:]).reshape(-1, *x.shape[2:])
    inner = model.operation(index).inner(repeated, model.V[index])
    norms = model.U[index].norm(dim=2)
    return inner * norms.view(model.instances, *[1] * (inner.ndim - 2), -1)
