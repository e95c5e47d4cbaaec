"""One site's components and weight in the coordinates of a task's features, as factors.

Legend: S instances, C components, m slots of one component at this site, F features, X the side of the weight that is
not features: O where features are read, I where they are written. In double precision, on the CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpipe.decomposition.method import Method


@dataclass(frozen=True)
class SiteInFeatures:
    """V [S, C, m, I] and U [S, C, m, O], the weight W [I, O], the feature directions R [F, I] that it reads and
    Q [F, O] that it writes; None where features are its units.
    """

    V: Tensor
    U: Tensor
    W: Tensor
    R: Tensor | None
    Q: Tensor | None

    def along(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Slots along the features, [S, C, m, F], and across them, [S, C, m, X]; the weight in the same form, [F, X].

        "read": R V, U and R W. "write": Q U, V and Q W^T, the transpose of W Q^T.
        """
        assert side in ("read", "write"), side
        if side == "read":
            return self._read(), self.U, self.W if self.R is None else self.R @ self.W
        return self._written(), self.V, self.W.T if self.Q is None else self.Q @ self.W.T

    def part_sizes(self) -> Tensor:
        """Sizes of the rank-one parts of all components, [S, parts]: singular values of (R V) (U Q^T).

        They do not depend on how a component's slots share its parts; a component of one slot is its own part. With
        V^T = Q_v R_v and U^T = Q_u R_u they are the singular values of R_v R_u^T, [m, m].
        """
        left, right = (torch.linalg.qr(factor.mT, mode="r").R for factor in (self._read(), self._written()))
        return torch.linalg.svdvals(left @ right.mT).flatten(1)

    def shares(self) -> Tensor:
        """Of each slot <V U, W> / |W|^2, in feature coordinates, [S, K]: over slots and the delta they add to one."""
        weight = self.W if self.R is None else self.R @ self.W
        weight = weight if self.Q is None else weight @ self.Q.T
        products = (self._read() @ weight * self._written()).sum(-1).flatten(1)
        return products / weight.square().sum()

    def _read(self) -> Tensor:
        return self.V if self.R is None else self.V @ self.R.T

    def _written(self) -> Tensor:
        return self.U if self.Q is None else self.U @ self.Q.T


def site_in_features(method: Method, index: int, mechanisms: Mapping[str, Any]) -> SiteInFeatures:
    """Site `index` of `method`; `mechanisms` names its feature directions as tensors of the target's state dict."""
    model, m = method.model, method.slots_per_component
    return SiteInFeatures(
        V=_exact(model.V[index]).mT.unflatten(1, (-1, m)),
        U=_exact(model.U[index]).unflatten(1, (-1, m)),
        W=_exact(model.weight(index)),
        R=_directions(method, index, mechanisms, "reading"),
        Q=_directions(method, index, mechanisms, "writing"),
    )


def _directions(method: Method, index: int, mechanisms: Mapping[str, Any], kind: str) -> Tensor | None:
    site = method.model.sites[index]
    name = mechanisms.get(kind, {}).get(site.name)
    if name is None:
        return None
    directions = _exact(method.model.target.state_dict()[name])
    wanted = (mechanisms["features"], site.d_in if kind == "reading" else site.d_out)
    assert directions.shape == wanted, f"{kind} basis {name} of {site.name}: {tuple(directions.shape)}, not {wanted}"
    return directions


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().cpu()
