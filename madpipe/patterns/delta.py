"""What leaves the trusted components: size of the weight delta's own contribution at each site, per input."""

import torch
from torch import Tensor

from madpipe.patterns.extractor import Extractor
from madpipe.patterns.observation import Observation
from madpipe.patterns.pattern import Patterns
from madpipe.patterns.pooling import root_mean_square


class DeltaAttribution(Extractor):
    """Root mean square over units (and positions) of (W - sum of alive slots) x, at each site, on its clean input."""

    name = "delta"
    fitted_rows = "validation"

    def extract(self, observation: Observation) -> Patterns:
        values = delta_sizes(observation)
        names = [f"{variant}:delta@{site}" for site in values for variant in self.method.variant_names]
        columns = torch.cat(list(values.values())).t().double().cpu().numpy()
        owners = tuple(site for site in values for _ in self.method.variant_names)
        return Patterns(columns, tuple(names), owners)


def delta_sizes(observation: Observation) -> dict[str, Tensor]:
    """site -> [S, B]."""
    model, sizes = observation.method.model, {}
    for i, site in enumerate(model.sites):
        x = observation.clean.site_inputs[site.name]
        repeated = x.expand(model.instances, *x.shape[1:]).reshape(-1, *x.shape[2:])
        removed = model.weight(i) - observation.observer.alive_weights[site.name].matrices
        written = model.operation(i).apply_weights(repeated, removed)
        sizes[site.name] = root_mean_square(written.view(model.instances, -1, *written.shape[1:]))
    return sizes
