"""Where slots and their importance functions begin.

Three starts. `weights`, the default, begins at W on the directions that trusted inputs excite. `zero` grows from near
zero only what trusted data need. `sparse` begins at few rank-one atoms, each of use on few inputs (sparse_start.py),
and opens importance functions there.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from madpipe.components.model import ComponentModel, Forward
from madpipe.decomposition.atom_usage import SparseForm
from madpipe.decomposition.causal_importance import ImportanceFunctions
from madpipe.decomposition.importance_start import fit_importances
from madpipe.decomposition.initialisation import start_at_atoms, start_at_weights, start_near_zero
from madpipe.decomposition.method import TrustedStatistics
from madpipe.decomposition.sparse_start import sparse_forms
from madpipe.decomposition.subcomponent_config import Start

Logits = Callable[[Forward], dict[str, Tensor]]
"""Pre-sigmoid importances of a clean pass, site -> [S, B, *P, K]."""


def start(
    model: ComponentModel,
    importance: ImportanceFunctions,
    logits: Logits,
    kind: Start,
    statistics: TrustedStatistics,
    generator: torch.Generator,
) -> None:
    """Set slots and importance functions; `logits` reads both."""
    forms = _start_sparse(model, statistics, generator) if kind == "sparse" else []
    for i, site in enumerate(model.sites):
        if kind == "zero":
            start_near_zero(model, i, statistics.spans[site.name], generator)
        elif kind == "weights":
            start_at_weights(model, i, statistics.spans[site.name], generator)
        importance[i].initialise(generator)  # type: ignore[operator]
    if forms:
        _start_importances(model, importance, logits, statistics.sample, forms)


def _start_sparse(
    model: ComponentModel, statistics: TrustedStatistics, generator: torch.Generator
) -> list[dict[str, SparseForm]]:
    """Every instance at sparse forms of its own, which are given back."""
    found = []
    for s in range(model.instances):
        forms = sparse_forms(model.target, model.sites, statistics.sample, statistics.metric, generator)
        for i, site in enumerate(model.sites):
            start_at_atoms(model, i, s, forms[site.name], generator)
        found.append(forms)
    return found


def _start_importances(
    model: ComponentModel,
    importance: ImportanceFunctions,
    logits: Logits,
    sample: Tensor,
    forms: Sequence[Mapping[str, SparseForm]],
) -> None:
    """Importance functions open the slots that are of use, on the rows where that was seen."""
    rows = [next(iter(own.values())).rows for own in forms]
    clean = model.masked_forward(torch.cat([sample[own] for own in rows]), {})
    used = {
        site.name: torch.stack([_on_slots(own[site.name].used, k) for own in forms])
        for site, k in zip(model.sites, model.slots, strict=True)
    }
    fit_importances(lambda: logits(clean), used, importance.parameters())


def _on_slots(used: Tensor, slots: int) -> Tensor:
    """[N, n] of the first n of `slots` slots, of which the others are of no use: [N, slots]."""
    kept = used[:, :slots]
    return nn.functional.pad(kept, (0, slots - kept.shape[1]))
