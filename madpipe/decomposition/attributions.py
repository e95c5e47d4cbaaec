"""First-order effect of removing each slot on each output, in closed form from inner activations and output gradients.

A_{o,k}(x) = sum over positions of (V[:, k] . x) (U[k] . df_o/dy), y the site's output: the derivative of output o along
the parameter direction V_k U_k (APD, arXiv 2501.14926, section 2.2). Contributions of the slots of one component, over
sites and positions, add up before squaring. One batched backward pass gives all outputs, or random projections of them
where they are many: E[(v^T J P)^2] = |J P|^2 for v ~ N(0, I). No [B, C, O, I] tensor is built.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel
from madpipe.decomposition.component_view import ComponentView

MOST_OUTPUTS = 16  # above this, as many random projections stand for all outputs


@dataclass(frozen=True)
class SiteUse:
    """One use of a site's weight: what it reads, [B, ...], and the gradients of what it writes, [D, B, ...]."""

    index: int
    site_input: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class OutputGradients:
    """Of D outputs or projections, at every use of a site; sum_d A_d^2 * `weight` is mean_o A_o^2."""

    uses: tuple[SiteUse, ...]
    weight: float

    def of(self, index: int) -> list[SiteUse]:
        """The uses of site `index`: several where modules share a weight, or one runs more than once."""
        return [use for use in self.uses if use.index == index]


def output_gradients(
    model: ComponentModel,
    x: Tensor,
    mixes: torch.Generator | None = None,
    *,
    scale: float = 1.0,
    exact: bool = False,
) -> OutputGradients:
    """Gradients of the outputs of x [B, ...] with respect to what every site writes; zero where none depends.

    The sites' weights are `scale` times the target's. With `mixes`, of one random mix of outputs for each input instead
    (D = 1). `exact`: of every output, however many there are.
    """
    reads: list[tuple[int, Tensor]] = []
    leaves: list[Tensor] = []

    def perturb(index: int, site_input: Tensor, y: Tensor) -> Tensor:
        reads.append((index, site_input.detach()))
        leaves.append(torch.zeros_like(y, requires_grad=True))
        return y * scale + leaves[-1] if scale != 1 else y + leaves[-1]

    with torch.enable_grad():
        output = model.perturbed_forward(x, perturb).output[0].flatten(1)
        directions = torch.randn(1, *output.shape, generator=mixes) if mixes else _directions(output, exact)
        wanted = directions if mixes else directions[:, None, :].expand(-1, len(output), -1)
        gradients = torch.autograd.grad(output, leaves, wanted, is_grads_batched=True, allow_unused=True)
    every = len(directions) == output.shape[1]
    weight = 1.0 / output.shape[1] if every else 1.0 / (output.shape[1] * len(directions))
    uses = (
        SiteUse(index, read, leaf.new_zeros(len(directions), *leaf.shape) if gradient is None else gradient)
        for (index, read), leaf, gradient in zip(reads, leaves, gradients, strict=True)
    )
    return OutputGradients(tuple(uses), weight)


def _directions(output: Tensor, exact: bool = False) -> Tensor:
    """Rows to project the outputs on: unit vectors, or where outputs are many a Gaussian sample, always the same."""
    count = output.shape[1]
    if exact or count <= MOST_OUTPUTS:
        return torch.eye(count, dtype=output.dtype, device=output.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MOST_OUTPUTS, count, generator=generator).to(output)


def slot_contributions(model: ComponentModel, index: int, found: OutputGradients) -> Tensor:
    """A_{d,k} = (V_k . x)(U_k . g_d) summed over positions and uses, for every instance: [S, D, B, K]."""
    parts = [_use_contributions(model, use) for use in found.of(index)]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _use_contributions(model: ComponentModel, use: SiteUse) -> Tensor:
    operation, S, x = model.operation(use.index), model.instances, use.site_input
    inner = operation.inner(x.repeat(S, *[1] * (x.ndim - 1)), model.V[use.index])
    rows = operation.positions(use.gradients.flatten(0, 1), 1)[0]
    written = rows.flatten(0, -2) @ model.U[use.index].transpose(1, 2)
    product = written.view(S, len(use.gradients), *inner.shape[1:]) * inner[:, None]
    return product.flatten(3, -2).sum(3) if product.ndim > 4 else product


@torch.no_grad()
def slot_attributions(model: ComponentModel, x: Tensor) -> dict[str, Tensor]:
    """sqrt(mean_o A_{o,k}^2) of every slot: site -> [S, B, K], non-negative."""
    found = output_gradients(model, x)
    return {
        site.name: (slot_contributions(model, i, found).square().sum(1) * found.weight).sqrt()
        for i, site in enumerate(model.sites)
    }


@torch.no_grad()
def view_attributions(model: ComponentModel, x: Tensor, views: Sequence[ComponentView]) -> list[Tensor]:
    """sqrt(mean_o (sum over a component's slots A_{o,k})^2), non-negative, of each instance's view: [B, G]."""
    found = output_gradients(model, x)
    slots = {site.name: slot_contributions(model, i, found) for i, site in enumerate(model.sites)}
    totals = [view.total({site: value[s] for site, value in slots.items()}) for s, view in enumerate(views)]
    return [(total.square().sum(0) * found.weight).sqrt() for total in totals]
