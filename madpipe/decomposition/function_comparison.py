"""Components beside functions that own neurons, each a parameter vector over several sites.

Function p is, at a site, those rows (outputs) or columns (inputs) of nn.Linear.weight whose neurons it owns, all else
zero; concatenated over sites. Components are those of the components view, concatenated likewise: sums of the rank-one
matrices of their slots. As in APD's comparison of parameter vectors (arXiv 2501.14926) nothing is rescaled, so a site
of large weights counts for more. Legend: S instances, K slots of a site, G components of the instance that has most,
P functions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from madpipe.decomposition.feature_coordinates import SiteInFeatures
from madpipe.decomposition.mechanism_comparison import Comparison
from madpipe.decomposition.method import Method


def compare_functions(
    method: Method, sites: Mapping[str, SiteInFeatures], functions: Sequence[Mapping[str, Any]]
) -> Comparison:
    """`functions`: a name, a site, and the rows or columns of its weight, for each function at each site."""
    names = list(dict.fromkeys(part["name"] for part in functions))
    views = method.component_views()
    most = max(view.count for view in views)
    products, columns = np.zeros((2, len(views), most, len(names)))
    components, mechanisms = np.zeros((len(views), most)), np.zeros(len(names))
    for s, view in enumerate(views):
        for name, site in sites.items():
            belongs = (view.labels[name].cpu()[:, None] == torch.arange(most)).double()
            V, U = site.V[s].flatten(0, 1), site.U[s].flatten(0, 1)
            components[s] += _squared_norms(V, U, belongs).numpy()
            for part in (part for part in functions if part["site"] == name):
                p, (rows, read) = names.index(part["name"]), _owned(part)
                own_V, own_U = V[:, read], U[:, rows]
                products[s, :, p] += ((own_V @ site.W[read, rows] * own_U).sum(1) @ belongs).numpy()
                columns[s, :, p] += _squared_norms(own_V, own_U, belongs).numpy()
    for part in (part for part in functions if part["site"] in sites):
        rows, read = _owned(part)
        mechanisms[names.index(part["name"])] += float(sites[part["site"]].W[read, rows].square().sum())
    return Comparison(names, list(range(len(names))), products, columns, components, mechanisms)


def _owned(part: Mapping[str, Any]) -> tuple[Any, Any]:
    """Indices of the outputs and of the inputs that a function owns at a site: some of the one, all of the other."""
    everything = slice(None)
    return part.get("rows", everything), part.get("columns", everything)


def _squared_norms(V: Tensor, U: Tensor, belongs: Tensor) -> Tensor:
    """|sum of V_k U_k over a component's slots|^2, from V [K, I], U [K, O], and whose each slot is, [K, G]: [G]."""
    gram = (V @ V.T) * (U @ U.T)
    return (gram @ belongs * belongs).sum(0).clamp(min=0)  # rounding may leave -1e-33 of slots that cancel
