"""On which trusted inputs rank-one atoms are of use, and whether the used ones alone reproduce trusted outputs.

Legend: N trusted rows, n atoms, I = d_in, O = d_out, D output directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.masks import FixedWeights, InputMask, Masks, SiteMask
from madpipe.components.model import ComponentModel
from madpipe.decomposition.attributions import OutputGradients, output_gradients
from madpipe.decomposition.losses import OutputMetric

USED = 0.05  # of an atom's largest attribution: above it, the atom is of use on that input


@dataclass(frozen=True)
class SparseForm:
    """W ~ sum_k V[:, k] U[k, :]: V [I, n], U [n, O], largest first; `used` [N, n] on which of the trusted `rows` [N]
    each is of use.

    `unreproduced` is the divergence with used atoms alone over that with the site left out. `sparse` is False where
    the atoms are the weight's singular vectors.
    """

    V: Tensor
    U: Tensor
    used: Tensor
    rows: Tensor
    unreproduced: float
    sparse: bool


class AtomUsage:
    """When atoms are of use: attributions on fixed trusted rows, from one batched backward pass."""

    def __init__(self, model: ComponentModel, trusted: Tensor, rows: Tensor, metric: OutputMetric):
        self.model, self.rows, self.metric = model, rows, metric
        self.x = x = trusted[rows]
        self._indices = range(len(model.sites))
        self.gradients: OutputGradients = output_gradients(model, x)
        with torch.no_grad():
            self.clean = model.clean_forward(x).output
            self.left_out = [self._divergence(i, FixedWeights(torch.zeros_like(model.delta(i)))) for i in self._indices]

    @torch.no_grad()
    def attributions(self, index: int, V: Tensor, U: Tensor) -> Tensor:
        """sqrt(sum_d A_d^2) of atoms V [I, n], U [n, O] on each row: [N, n]; a direction at a time, to save memory."""
        total = torch.zeros(len(self.x), V.shape[1])
        uses = self.gradients.of(index)
        operation = self.model.operation(index)
        inner = [operation.inner(use.site_input, V[None])[0] for use in uses]
        for d in range(len(uses[0].gradients)):
            effect = torch.zeros_like(total)
            for use, read in zip(uses, inner, strict=True):
                product = read * (operation.positions(use.gradients[d], 1)[0] @ U.t())
                effect += product.flatten(1, -2).sum(1) if product.ndim > 2 else product
            total += effect.square()
        return total.sqrt()

    def used(self, index: int, V: Tensor, U: Tensor) -> Tensor:
        attributions = self.attributions(index, V, U)
        return attributions > USED * attributions.amax(0).clamp(min=1e-12)

    def form(self, index: int, V: Tensor, U: Tensor, *, sparse: bool) -> SparseForm:
        used = self.used(index, V, U)
        return SparseForm(V, U, used, self.rows, self.unreproduced(index, V, U, used), sparse)

    @torch.no_grad()
    def unreproduced(self, index: int, V: Tensor, U: Tensor, used: Tensor) -> float:
        """Divergence of the pass with only used atoms at site `index`, over that without the site."""
        self.model.V[index].data, self.model.U[index].data = V[None], U[None]
        kept = self._divergence(index, InputMask(used[None].to(V.dtype)))
        return kept / max(self.left_out[index], 1e-30)

    def _divergence(self, index: int, mask: SiteMask) -> float:
        masks: Masks = {self.model.sites[index].name: mask}
        return float(self.metric.kl(self.clean, self.model.masked_forward(self.x, masks).output).mean())
