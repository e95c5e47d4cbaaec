"""Do the trusted components explain this output? How far the explained pass is from the clean one, output and inside.

For each mask and variant, of the `statistics` asked for:

    kl_forward, kl_reverse   KL(clean || explained), KL(explained || clean), in nats
    l2                       the normalised squared distance of raw outputs
    output_max               the largest squared residual of any one raw output, over that output's mean square
    hidden_first             mean over units of the squared residual at the first hidden site, over the unit's variance
    hidden_last              the same at the last hidden site, over that unit's mean squared residual

Variances and mean squares are those of trusted fit rows. A site's input is hidden when it is not the network's own
input; without a hidden site those residuals are 0. Higher = less explained.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from madpipe.patterns.extractor import Extractor, ExtractorConfig
from madpipe.patterns.observation import MaskKind, Observation
from madpipe.patterns.pattern import Patterns

Statistic = Literal["kl_forward", "kl_reverse", "l2", "output_max", "hidden_first", "hidden_last"]
DEFAULT: tuple[Statistic, ...] = ("kl_forward", "output_max", "hidden_first", "hidden_last")
VARIANCE_FLOOR = 1e-3  # of the mean variance: a unit silent on trusted data counts, but not without bound
RESIDUAL_FLOOR = 1e-2  # of the mean square: residuals of fit rows are small, and of some units by chance


class ReconstructionConfig(ExtractorConfig):
    masks: tuple[MaskKind, ...] = ("alive",)
    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)] = DEFAULT


class Reconstruction(Extractor):
    """Each variant answers for what it was trained for; of another aim its residuals would be noise."""

    Config = ReconstructionConfig
    name = "reconstruction"
    fitted_rows = "validation"
    config: ReconstructionConfig

    @property
    def shared(self) -> bool:
        return set(self.config.masks) == {"alive"}

    def fit(self, observations: Iterable[Observation]) -> None:
        """Learn scales: each has rows [n, ...] to be averaged, of which a variance subtracts the mean first."""
        moments: dict[str, list[Tensor]] = {}
        for observation in observations:
            for name, rows in self._rows_to_learn_from(observation).items():
                moments.setdefault(name, []).append(_moments(rows))
        for name, parts in moments.items():
            total, squares, count = torch.stack(parts).sum(0)
            if name == "variance":
                scale, floor = squares / count - (total / count).square(), VARIANCE_FLOOR
            else:
                scale, floor = squares / count, VARIANCE_FLOOR if name.startswith("output") else RESIDUAL_FLOOR
            self.tensors[name] = scale.clamp(min=floor * float(scale.mean()) + 1e-12)

    def _rows_to_learn_from(self, observation: Observation) -> dict[str, Tensor]:
        rows, sites = {}, self.method.hidden_sites()
        if "hidden_first" in self.config.statistics and sites:
            rows["variance"] = observation.clean.site_inputs[sites[0]][0]
        for kind in self.config.masks:
            if "output_max" in self.config.statistics:
                rows[f"output:{kind}"] = self._output_residuals(observation, kind).flatten(1, -2).transpose(0, 1)
            if "hidden_last" in self.config.statistics and sites:
                rows[f"hidden:{kind}"] = self._hidden_residuals(observation, kind, sites[-1]).transpose(0, 1)
        return rows

    def extract(self, observation: Observation) -> Patterns:
        columns: dict[str, Tensor] = {}
        for kind in self.config.masks:
            for statistic in self.config.statistics:
                hidden = statistic.startswith("hidden")
                values = (self._hidden if hidden else self._outputs)(observation, kind, statistic)
                variants = _places(self.method.matches_hidden() if hidden else self.method.matches_output())
                for row, s in enumerate(variants):
                    columns[f"{statistic}_{kind}_{self.method.variant_names[s]}"] = values[row]
        rows = torch.stack(list(columns.values()), 1).double().cpu().numpy()
        return Patterns(np.ascontiguousarray(rows), tuple(columns), ("",) * len(columns))

    def _outputs(self, observation: Observation, kind: MaskKind, statistic: Statistic) -> Tensor:
        """Of the variants that answer for the output, [variants, B]."""
        if statistic == "output_max":
            residuals = self._output_residuals(observation, kind)
            scales = self.tensors[f"output:{kind}"]
            scales = scales.reshape(len(scales), *[1] * (residuals.ndim - 2), -1)
            return (residuals.square() / scales).flatten(2).amax(2)
        metric, p = self.method.statistics.metric, observation.clean.output
        q = observation.explained(kind).output[_places(self.method.matches_output())]
        match statistic:
            case "kl_forward":
                value = metric.kl(p, q)
            case "kl_reverse":
                value = metric.kl(q, p)
            case _:
                value = metric.squared_distance(p, q)
        return value.flatten(2).sum(2) if value.ndim > 2 else value

    def _output_residuals(self, observation: Observation, kind: MaskKind) -> Tensor:
        """Clean less explained raw outputs, [variants, B, ..., O].

        Where outputs are a softmax's, what they have in common says nothing of the distribution and training leaves it
        free: it stands by itself, as one more output, and the others are told without it.
        """
        matching = _places(self.method.matches_output())
        residuals = observation.clean.output - observation.explained(kind).output[matching]
        if self.method.statistics.metric.kind != "categorical":
            return residuals
        common = residuals.mean(-1, keepdim=True)
        return torch.cat([residuals - common, common], -1)

    def _hidden(self, observation: Observation, kind: MaskKind, statistic: Statistic) -> Tensor:
        """Of the variants trained to reproduce hidden activations, [variants, B]."""
        sites = self.method.hidden_sites()
        if not sites:
            return observation.clean.output.new_zeros(sum(self.method.matches_hidden()), len(observation.x))
        first = statistic == "hidden_first"
        residuals = self._hidden_residuals(observation, kind, sites[0] if first else sites[-1])
        scale = self.tensors["variance"][None] if first else self.tensors[f"hidden:{kind}"]
        weights = (1 / scale / scale[0].numel()).flatten(1)
        return (residuals.flatten(2).square() @ weights[:, :, None])[..., 0]

    def _hidden_residuals(self, observation: Observation, kind: MaskKind, site: str) -> Tensor:
        """Clean less explained inputs of `site`, [variants, B, ...]."""
        explained = observation.explained(kind).site_inputs[site][_places(self.method.matches_hidden())]
        return observation.clean.site_inputs[site] - explained


def _places(chosen: list[bool]) -> list[int]:
    return [place for place, is_chosen in enumerate(chosen) if is_chosen]


def _moments(rows: Tensor) -> Tensor:
    """Sums over rows [n, ...] of values, of their squares, and of ones: [3, ...]."""
    return torch.stack([rows.sum(0), rows.square().sum(0), torch.full_like(rows[0], len(rows))])
