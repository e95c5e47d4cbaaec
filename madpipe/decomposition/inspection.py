"""What one looks at in a decomposition, as arrays: components of a site, importances on trusted and on lone features.

Legend: S instances, C components, K slots, m slots of one component at one site, F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from madpipe.decomposition.grouping import slot_importances
from madpipe.decomposition.method import Method

NEGLIGIBLE = 0.1  # of the largest norm at a site: smaller components are not worth a picture

Floats = NDArray[np.float64]


class Spectrum(NamedTuple):
    """A site's largest and mean importance of each component over inputs (and positions), [S, C] each."""

    largest: Floats
    mean: Floats


@torch.no_grad()
def importance_spectra(method: Method, chunks: Sequence[Tensor]) -> dict[str, Spectrum]:
    """Over inputs in chunks [B, ...]: site -> spectrum."""
    peaks: dict[str, list[Tensor]] = {}
    sums: dict[str, list[Tensor]] = {}
    for x in chunks:
        for site, importance in _component_importances(method, x).items():
            peaks.setdefault(site, []).append(importance.amax((1, 2)))
            sums.setdefault(site, []).append(importance.double().mean(2).sum(1))
    count = sum(len(x) for x in chunks)
    return {
        site: Spectrum(_array(torch.stack(peaks[site]).amax(0)), _array(torch.stack(sums[site]).sum(0) / count))
        for site in peaks
    }


class CoImportance(NamedTuple):
    """Of n alive slots, those of a component beside each other. together [n, n] in [0, 1]: cosines of their importances
    over inputs. names: `<site>.<k>` each. sizes: how many slots each component has, in order; they add up to n.
    """

    together: Floats
    names: list[str]
    sizes: list[int]


@torch.no_grad()
def co_importance(method: Method, chunks: Sequence[Tensor], instance: int) -> CoImportance:
    """Of one instance whose components are known, on inputs in chunks [B, ...]."""
    sites = method.model.sites
    alive = torch.cat([method.alive(i)[instance].cpu() for i in range(len(sites))])
    labels = torch.cat([method.component_views()[instance].labels[site.name].cpu() for site in sites])
    places = alive.nonzero().flatten()
    order = places[labels[places].sort(stable=True).indices]
    names = [method.part_name(i, k) for i, count in enumerate(method.model.slots) for k in range(count)]
    products = torch.zeros(len(order), len(order), dtype=torch.double)
    for x in chunks:
        importances = torch.cat([g[instance] for g in slot_importances(method, x).values()], 1).cpu()[:, order].double()
        products += importances.T @ importances
    norms = products.diagonal().clamp(min=1e-24).sqrt()
    sizes = labels[order].unique_consecutive(return_counts=True)[1].tolist()
    return CoImportance(_array(products / norms / norms[:, None]), [names[k] for k in order.tolist()], sizes)


@torch.no_grad()
def lone_feature_importances(method: Method, features: int) -> dict[str, Floats]:
    """On the F inputs with one feature at 1 and the others at 0: site -> [S, F, C], the largest over positions."""
    inputs = torch.eye(features).to(method.model.V[0])
    return {site: _array(value.amax(2)) for site, value in _component_importances(method, inputs).items()}


@torch.no_grad()
def component_matrices(method: Method, index: int, instance: int, most: int) -> tuple[list[tuple[str, Floats]], int]:
    """(title, [I, O]) of site `index`: the weight, the weight delta, then alive components, largest first. And how many
    are alive.

    At most `most` components, and none whose norm is below NEGLIGIBLE of the largest.
    """
    model, m = method.model, method.slots_per_component
    V, U = model.V[index][instance], model.U[index][instance]
    matrices = torch.einsum("icm,cmo->cio", V.unflatten(1, (-1, m)), U.unflatten(0, (-1, m)))
    alive = method.alive(index)[instance].view(-1, m).any(1)
    norms = matrices.flatten(1).norm(dim=1) * alive
    order = norms.argsort(descending=True, stable=True)[:most]
    shown = order[norms[order] > NEGLIGIBLE * norms.max()].tolist()
    whole = [("weight", model.weight(index)), ("weight delta", model.delta(index)[instance])]
    pictures = [(title, _array(matrix)) for title, matrix in [*whole, *((str(c), matrices[c]) for c in shown)]]
    return pictures, int(alive.sum())


@torch.no_grad()
def reading_directions(method: Method, index: int, instance: int, most: int) -> list[tuple[str, Floats]]:
    """(number, V[:, k] of length one, [I]) of at most `most` alive slots of site `index`, the largest first."""
    V, U = method.model.V[index][instance].double(), method.model.U[index][instance].double()
    lengths = V.norm(dim=0)
    sizes = lengths * U.norm(dim=1) * method.alive(index)[instance]
    order = sizes.argsort(descending=True, stable=True)[: min(most, int((sizes > 0).sum()))]
    return [(str(k), _array(V[:, k] / lengths[k])) for k in order.tolist()]


def _component_importances(method: Method, x: Tensor) -> dict[str, Tensor]:
    """Of x [B, ...]: site -> [S, B, P, C], P = 1 where a site has no positions. A component's slots share theirs."""
    activity = method.activity(method.model.clean_forward(x), x)
    firsts = {site: value[..., :: method.slots_per_component] for site, value in activity.items()}
    return {site: value.reshape(*value.shape[:2], -1, value.shape[-1]) for site, value in firsts.items()}


def _array(value: Tensor) -> Floats:
    array: Floats = value.double().cpu().numpy()
    return array
