"""Do the trusted components explain this output? How far the explained pass is from the clean one, output and inside.

For each mask and variant, of the `statistics` asked for: `kl_forward` KL(clean || explained) and `kl_reverse`
KL(explained || clean) in nats, `l2` the normalised squared distance of raw outputs; always `hidden_first` and
`hidden_max`, the mean squared residual of hidden activations over each unit's trusted variance, at the first hidden
site and at the worst one. A site's input is hidden when it is not the network's own input; without a hidden site both
residuals are 0. Higher = less explained.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from madpipe.components.model import Forward
from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import MaskKind, Observation
from madpipe.patterns.pattern import Patterns

OutputStatistic = Literal["kl_forward", "kl_reverse", "l2"]
VARIANCE_FLOOR = 1e-3  # of a site's mean variance: a unit silent on trusted data counts, but not without bound


class ReconstructionConfig(ExtractorConfig):
    masks: tuple[MaskKind, ...] = ("alive",)
    statistics: Annotated[tuple[OutputStatistic, ...], Field(min_length=1)] = ("kl_forward",)


class Reconstruction(Extractor):
    Config = ReconstructionConfig
    name = "reconstruction"
    fitted_rows = "validation"
    config: ReconstructionConfig

    def fit(self, observations: Iterable[Observation]) -> None:
        sums: dict[str, list[Tensor]] = {}
        for observation in observations:
            for site in self.method.hidden_sites():
                h = observation.clean.site_inputs[site][0]
                moments = torch.stack([h.sum(0), h.square().sum(0), torch.full_like(h[0], len(h))])
                sums.setdefault(site, []).append(moments)
        for site, parts in sums.items():
            total, squares, count = torch.stack(parts).sum(0)
            variance = (squares / count - (total / count).square()).clamp(min=0)
            self.tensors[site] = variance.clamp(min=VARIANCE_FLOOR * float(variance.mean()) + 1e-12)

    def extract(self, observation: Observation) -> Patterns:
        columns: dict[str, Tensor] = {}
        for kind in self.config.masks:
            explained = observation.explained(kind)
            columns |= self._outputs(observation.clean, explained, kind)
            columns |= self._hidden(observation.clean, explained, kind)
        rows = torch.stack(list(columns.values()), 1).double().cpu().numpy()
        return Patterns(np.ascontiguousarray(rows), tuple(columns), ("",) * len(columns))

    def _outputs(self, clean: Forward, explained: Forward, kind: str) -> dict[str, Tensor]:
        """Divergences of the variants that answer for the output; of the others they are the noise of another aim."""
        matching = [s for s, matches in enumerate(self.method.matches_output()) if matches]
        metric = self.method.statistics.metric
        p, q = clean.output, explained.output[matching]
        values: dict[OutputStatistic, Callable[[], Tensor]] = {
            "kl_forward": lambda: metric.kl(p, q),
            "kl_reverse": lambda: metric.kl(q, p),
            "l2": lambda: metric.squared_distance(p, q),
        }
        columns = {}
        for statistic in self.config.statistics:
            value = values[statistic]()
            summed = value.flatten(2).sum(2) if value.ndim > 2 else value
            for row, s in enumerate(matching):
                columns[f"{statistic}_{kind}_{self.method.variant_names[s]}"] = summed[row]
        return columns

    def _hidden(self, clean: Forward, explained: Forward, kind: str) -> dict[str, Tensor]:
        """Residuals of the variants trained to reproduce hidden activations; of the others they say nothing."""
        matching = [s for s, matches in enumerate(self.method.matches_hidden()) if matches]
        columns = {}
        for s in matching:
            residuals = [
                _weighted_residual(clean.site_inputs[site][0], explained.site_inputs[site][s], self.tensors[site])
                for site in self.method.hidden_sites()
            ] or [clean.output.new_zeros(clean.output.shape[1])]
            columns[f"hidden_first_{kind}_{self.method.variant_names[s]}"] = residuals[0]
            columns[f"hidden_max_{kind}_{self.method.variant_names[s]}"] = torch.stack(residuals).amax(0)
        return columns


def _weighted_residual(clean: Tensor, explained: Tensor, variance: Tensor) -> Tensor:
    """Mean over units of (clean - explained)^2 / variance: [B, ...] twice, [...] -> [B]."""
    weights = 1 / (variance.flatten() * variance.numel())
    return (explained - clean).flatten(1).square() @ weights
