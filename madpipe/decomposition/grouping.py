"""The components of a decomposition whose slots are subcomponents: clusters of those active together on trusted data.

Over all sites at once, each instance by itself, by description length (clustering.py). Of an input whose sites have
positions, a subcomponent's importance is the largest over them, since the positions of two sites need not be the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from madpipe.decomposition.clustering import cluster
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.method import Method


def group_subcomponents(
    method: Method, chunks: Sequence[Tensor], *, alpha: float, threshold: float, restarts: int
) -> None:
    """Give a settled `method` its components, from trusted rows in chunks [B, ...]; nothing where they are given.

    Importances above `threshold` are active. Only alive subcomponents are clustered; one that is active on none of
    these rows is a component by itself.
    """
    if method.spans_sites:
        return
    slots = {site.name: k for site, k in zip(method.model.sites, method.model.slots, strict=True)}
    active = torch.cat([active_slots(method, x, threshold) for x in chunks], 1)
    alive = torch.cat([method.alive(i) for i in range(len(slots))], 1).cpu()
    views = []
    for s, own in enumerate(alive):
        places = own.nonzero().flatten()
        found = cluster(active[s][:, places], alpha=alpha, restarts=restarts)
        groups = [*found.groups, *((k,) for k in found.dead)]
        views.append(ComponentView.of_groups([places[list(group)].tolist() for group in groups], slots))
    method.clusters = tuple(views)


@torch.no_grad()
def active_slots(method: Method, x: Tensor, threshold: float) -> Tensor:
    """Which slots of all sites, one site after another, are active on x [B, ...]: bool [S, B, sum of K]."""
    return (torch.cat(list(slot_importances(method, x).values()), 2) > threshold).cpu()


def slot_importances(method: Method, x: Tensor) -> dict[str, Tensor]:
    """Of x [B, ...], the largest over positions: site -> [S, B, K]."""
    activity = method.activity(method.model.clean_forward(x), x)
    return {site: g if g.ndim == 3 else g.flatten(2, -2).amax(2) for site, g in activity.items()}
