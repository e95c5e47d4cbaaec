"""First-order effect of removing each slot on each output, in closed form from inner activations and output gradients.

A_{o,k}(x) = sum over positions of (V[:, k] . x) (U[k] . df_o/dy), y the site's output: the derivative of output o along
the parameter direction V_k U_k (APD, arXiv 2501.14926, section 2.2). Contributions of the slots of one component, over
sites and positions, add up before squaring. One batched backward pass gives all outputs, or random projections of them
where they are many: E[(v^T J P)^2] = |J P|^2 for v ~ N(0, I). No [B, C, O, I] tensor is built.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from madpipe.components.model import ComponentModel, Forward

MOST_OUTPUTS = 16  # above this, as many random projections stand for all outputs


@dataclass(frozen=True)
class OutputGradients:
    """`gradients`: per site [D, B, ...], of D outputs or projections; sum_d A_d^2 * `weight` is mean_o A_o^2."""

    clean: Forward
    gradients: tuple[Tensor, ...]
    weight: float


def output_gradients(model: ComponentModel, x: Tensor) -> OutputGradients:
    """Gradients of the clean outputs of x [B, ...] with respect to every site's output."""
    leaves: dict[int, Tensor] = {}

    def perturb(index: int, site_input: Tensor, y: Tensor) -> Tensor:
        leaves.setdefault(index, torch.zeros_like(y, requires_grad=True))
        return y + leaves[index]

    with torch.enable_grad():
        clean = model.perturbed_forward(x, perturb)
        output = clean.output[0].flatten(1)
        directions = _directions(output)
        ordered = [leaves[i] for i in range(len(model.sites))]
        wanted = directions[:, None, :].expand(-1, len(output), -1)
        gradients = torch.autograd.grad(output, ordered, wanted, is_grads_batched=True)
    exact = len(directions) == output.shape[1]
    weight = 1.0 / output.shape[1] if exact else 1.0 / (output.shape[1] * len(directions))
    return OutputGradients(clean, gradients, weight)


def _directions(output: Tensor) -> Tensor:
    """Rows to project the outputs on: unit vectors, or a fixed Gaussian sample where outputs are many."""
    count = output.shape[1]
    if count <= MOST_OUTPUTS:
        return torch.eye(count, dtype=output.dtype, device=output.device)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MOST_OUTPUTS, count, generator=generator, dtype=output.dtype).to(output.device)


def slot_contributions(model: ComponentModel, index: int, found: OutputGradients) -> Tensor:
    """A_{d,k} = (V_k . x)(U_k . g_d) summed over positions, for every instance: [S, D, B, K]."""
    operation, S = model.operation(index), model.instances
    x, gradient = found.clean.site_inputs[model.sites[index].name][0], found.gradients[index]
    inner = operation.inner(x.repeat(S, *[1] * (x.ndim - 1)), model.V[index])
    rows = operation.positions(gradient.flatten(0, 1), 1)[0]
    written = rows.flatten(0, -2) @ model.U[index].transpose(1, 2)
    product = written.view(S, len(gradient), *inner.shape[1:]) * inner[:, None]
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
def component_attributions(model: ComponentModel, x: Tensor, rank: int) -> Tensor:
    """sqrt(mean_o (sum over sites and slots A_{o,c,m})^2), [S, B, C], of components of `rank` slots at every site."""
    found = output_gradients(model, x)
    total = torch.zeros(())
    for i in range(len(model.sites)):
        total = total + slot_contributions(model, i, found).unflatten(-1, (-1, rank)).sum(-1)
    return (total.square().sum(1) * found.weight).sqrt()
