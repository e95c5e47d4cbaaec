"""VPD: SPD trained against an adversary too (Bushnaq et al., "Interpreting Language Model Parameters", 2026).

Every batch is reconstructed twice. Under random sources (SPD, arXiv 2506.20790), each input on a random subset of the
sites, of a size that is uniform from one to all (uniform-k-subset routing): the other sites run clean. And under
sources that persist and ascend the divergence, at all sites at once. The weight delta takes part as a slot of
importance 0 at each site. What differs from the paper stands in docs/decomposition.md.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from madpipe.components.masks import InputMask, clean_elsewhere, mask_from_source, uniform_subsets
from madpipe.components.sites import Site
from madpipe.decomposition.adversary import WARMUP, PersistentSources, masks_from_sources
from madpipe.decomposition.causal_importance import ImportanceFunction
from madpipe.decomposition.method import Batch, MethodConfig, TrustedStatistics
from madpipe.decomposition.processes import average_in_place
from madpipe.decomposition.subcomponent_config import SubcomponentConfig, Variant
from madpipe.decomposition.subcomponents import SubcomponentMethod


class VPDConfig(SubcomponentConfig):
    """Defaults marked with a paper's value are those of its 4-layer language model; the others are SPD's here."""

    parsimony_coefficient: float = 0.0
    stochastic_coefficient: float = Field(default=0.5, ge=0)  # paper: 0.5
    adversarial_coefficient: float = Field(default=0.5, ge=0)  # paper: 0.5
    source_steps: int = Field(default=2, ge=0)  # of ascent before a step, besides the one that goes with it; paper: 2
    source_rate: float = Field(default=0.01, gt=0)  # paper: 0.01
    sources: int | None = Field(default=None, ge=1)  # row b has source b mod sources; None (paper): one for each row
    routed: bool = True  # paper: true, for random sources; adversarial ones are at all sites
    importance_exponent: tuple[float, float] = (2.0, 0.4)  # paper: (2, 0.4)
    importance_function: ImportanceFunction = "shared"  # paper: a shared transformer
    importance_clip: float | None = Field(
        default=1.0, gt=0
    )  # that of everything: slots still learn when |g|^p is steep
    variants: tuple[Variant, ...] = (Variant(name="vpd", distance_coefficient=0.0),)

    @model_validator(mode="after")
    def _something_is_reconstructed(self) -> Self:
        if self.stochastic_coefficient == self.adversarial_coefficient == 0:
            raise ValueError("stochastic_coefficient and adversarial_coefficient are both 0; set one above it.")
        return self


class VPD(SubcomponentMethod):
    """Random and adversarial masks in every batch."""

    Config: ClassVar[type[MethodConfig]] = VPDConfig
    name: ClassVar[str] = "vpd"
    config: VPDConfig

    def __init__(self, target: nn.Module, sites: Sequence[Site], config: VPDConfig, instances: int):
        super().__init__(target, sites, config, instances)
        self.sources = PersistentSources(self.model.slots, instances, config.sources or config.batch_size)

    def initialise(self, statistics: TrustedStatistics, generator: torch.Generator) -> None:
        super().initialise(statistics, generator)
        self.sources.initialise(generator)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self._warming_up:
            faithful = self._faithfulness()
            return {"total": faithful, "faithfulness": faithful}
        importances, terms = self._importances(batch, self._readings(batch.clean))
        if self.config.stochastic_coefficient:
            terms["stochastic"] = self._reconstruction(batch, self._stochastic_masks(importances, batch))
        if self.config.adversarial_coefficient:
            terms["adversarial"] = self._adversarial(batch, importances)
        terms |= self._weight_losses()
        self._steer(terms["stochastic" if "stochastic" in terms else "adversarial"], batch.progress)
        return self._with_total(terms)

    def _coefficients(self) -> dict[str, float | Tensor]:
        config = self.config
        own = {"stochastic": config.stochastic_coefficient, "adversarial": config.adversarial_coefficient}
        return super()._coefficients() | own

    def _reconstruction(self, batch: Batch, masks: Mapping[str, InputMask]) -> Tensor:
        """Divergence, distance and hidden activations as each variant weighs them: [S]."""
        return self._total(self._explain(batch, masks, {}))

    def _stochastic_masks(self, importances: Mapping[str, Tensor], batch: Batch) -> dict[str, InputMask]:
        """m = g + (1 - g) r, delta ~ U(0, 1) for each input; where an input is not routed to a site, it runs clean."""
        masks = {}
        for name, g in importances.items():
            slots, delta = (batch.share.uniform(shape, batch.generator, g.dtype) for shape in (g.shape, g.shape[:2]))
            masks[name] = InputMask(mask_from_source(g, slots.to(g.device)), delta.to(g.device))
        if not self.config.routed:
            return masks
        whole = (self.model.instances, self._rows(batch) * batch.share.count)
        subsets = uniform_subsets(len(masks), whole, batch.generator)
        here = [batch.share.of(subset).to(batch.x.device) for subset in subsets]
        return {name: clean_elsewhere(mask, own) for (name, mask), own in zip(masks.items(), here, strict=True)}

    def _adversarial(self, batch: Batch, importances: Mapping[str, Tensor]) -> Tensor:
        """Reconstruction under the persistent sources after their ascent, [S]; they then ascend along with it."""
        fixed = {name: g.detach() for name, g in importances.items()}
        for _ in range(self.config.source_steps):
            self._attack(batch, fixed)
        return self._attack(batch, importances)

    def _attack(self, batch: Batch, importances: Mapping[str, Tensor]) -> Tensor:
        """Reconstruction under the sources as they are, [S]; then one step of their ascent.

        It goes along the gradient of the sum over rows: Adam's epsilon would else count for more in larger batches.
        """
        rows = self._rows(batch) * batch.share.count
        leaves = self.sources.leaves()
        repeated = [leaf.repeat(1, -(-rows // leaf.shape[1]), 1)[:, :rows] for leaf in leaves]
        loss = self._reconstruction(batch, masks_from_sources(importances, [batch.share.of(r) for r in repeated]))
        gradients = torch.autograd.grad(rows * loss.sum(), leaves, retain_graph=True)
        average_in_place(gradients)
        self.sources.ascend(gradients, self.config.source_rate * min(1.0, batch.progress / WARMUP))
        return loss

    def _rows(self, batch: Batch) -> int:
        return len(batch.x) // self.model.instances
