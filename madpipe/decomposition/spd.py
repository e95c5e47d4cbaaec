"""SPD: rank-one slots, causal importances, stochastic masks (Bushnaq, Braun, Sharkey, arXiv 2506.20790).

Slots and prices stand in subcomponents.py, starts in subcomponent_starts.py. Differences from the paper: the weight
delta may be a masked channel of its own, the importance function sees the site's whole input unless told otherwise, and
a share of batches may use the mask "alive 1, dead 0, delta 0", so that the explained output is on the training
distribution.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from madpipe.components.layers import SiteReading
from madpipe.components.masks import InputMask, SharedMask, SiteMask, mask_from_source
from madpipe.components.model import Forward
from madpipe.decomposition.method import Batch, MethodConfig
from madpipe.decomposition.subcomponent_config import SubcomponentConfig, Variant
from madpipe.decomposition.subcomponents import SubcomponentMethod, first_masked


class SPDConfig(SubcomponentConfig):
    """Defaults were measured on the Boolean and digits tasks (docs/detection.md).

    The published ones are in docs/decomposition.md.
    """

    steps: int = 500  # four folds of 500 detect as well as four of 1000
    mask_shares: tuple[float, float, float] = (0.05, 0.9, 0.05)  # of batches: importances alone, alive set, stochastic
    stochastic_delta: bool = True  # the delta is masked too; False: left out, as where faithfulness holds it to zero
    routed_share: float = 0.5  # of stochastic batches, in which a random half of the sites runs clean
    layerwise_coefficient: float = (
        0.0  # stochastic reconstruction with one site masked at a time (SPD's layerwise term)
    )
    variants: tuple[Variant, ...] = (
        Variant(name="output", distance_coefficient=0.0, parsimony_coefficient=0.03),
        Variant(name="hidden", hidden_coefficient=1.0, parsimony_coefficient=1.0),
    )


class SPD(SubcomponentMethod):
    """One kind of mask a batch, drawn anew."""

    Config: ClassVar[type[MethodConfig]] = SPDConfig
    name: ClassVar[str] = "spd"
    config: SPDConfig

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One kind of mask for the whole batch. Alive-set batches need no importances, and leave them untrained."""
        config = self.config
        if self._warming_up:
            faithful = self._faithfulness()
            return {"total": faithful, "faithfulness": faithful}
        pure, alive, _ = config.mask_shares
        draw = float(torch.rand((), generator=batch.generator))
        if pure <= draw < pure + alive:
            masks, terms, readings = self._alive_now_masks(), dict[str, Tensor](), dict[str, SiteReading]()
        else:
            readings = self._readings(batch.clean)
            importances, terms = self._importances(batch, readings)
            masks = self._importance_masks(importances) if draw < pure else self._stochastic_masks(importances, batch)
        joint = self._masked(batch, masks, readings)
        terms |= self._distances(batch, joint)
        if "importance_minimality" in terms:
            self._steer(terms["divergence"], batch.progress)
        if config.layerwise_coefficient and draw >= pure + alive:
            terms["layerwise"] = self._layerwise(batch, masks, readings, joint)
        terms |= self._weight_losses()
        return self._with_total(terms)

    def _coefficients(self) -> dict[str, float | Tensor]:
        return super()._coefficients() | {"layerwise": self.config.layerwise_coefficient}

    @property
    def merges_rows(self) -> bool:
        """A frequency is a mean inside a convex function, which weighs rows alike."""
        return not self.config.frequency_coefficient

    @property
    def repeats_passes(self) -> bool:
        return bool(self.config.layerwise_coefficient)

    def _layerwise(
        self, batch: Batch, masks: Mapping[str, SiteMask], readings: Mapping[str, SiteReading], joint: Forward
    ) -> Tensor:
        """Divergence with one site masked at a time, mean over sites: [S]. The first begins as the `joint` pass did."""
        kl, first = self.statistics.metric.kl, first_masked(batch.clean, masks)
        passes = [
            self._masked(batch, {name: mask}, readings, joint if name in first else None)
            for name, mask in masks.items()
        ]
        return torch.stack([batch.mean(kl(batch.clean.output, own.output)) for own in passes]).mean(0)

    def _importance_masks(self, importances: Mapping[str, Tensor]) -> dict[str, SiteMask]:
        return {name: InputMask(g) for name, g in importances.items()}

    def _stochastic_masks(self, importances: Mapping[str, Tensor], batch: Batch) -> dict[str, SiteMask]:
        """m = g + (1 - g) r, delta ~ U(0, 1); in a `routed_share` of batches half the sites run clean."""
        names, generator = list(importances), batch.generator
        routed = float(torch.rand((), generator=generator)) < self.config.routed_share
        kept = torch.rand(len(names), generator=generator) < 0.5 if routed else torch.ones(len(names), dtype=torch.bool)
        if not bool(kept.any()):
            kept[int(torch.randint(len(names), (), generator=generator))] = True
        masks: dict[str, SiteMask] = {}
        for name, use in zip(names, kept.tolist(), strict=True):
            if use:
                g, delta = importances[name], None
                if self.config.stochastic_delta:
                    delta = batch.uniform(g.shape[:2], g)
                masks[name] = InputMask(mask_from_source(g, batch.uniform(g.shape, g)), delta)
        return masks

    def _alive_now_masks(self) -> dict[str, SiteMask]:
        return {site.name: SharedMask(self._alive_now(i)) for i, site in enumerate(self.model.sites)}
