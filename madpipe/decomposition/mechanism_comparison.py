"""Components beside a task's known mechanisms: cosines, norm ratios and one-to-one matches.

Legend: S instances, C components, m slots of one component at one site, F features, P mechanisms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from madpipe.decomposition.feature_coordinates import SiteInFeatures

NEGLIGIBLE = 0.1  # of the largest norm at a site: what is no larger counts as no component
LEAST_COSINE = 0.95  # of a match
ZERO = 1e-6  # of the largest mechanism's norm: what is smaller has no direction

Floats = NDArray[np.float64]


class Fit(NamedTuple):
    """A component beside a mechanism; `ratio` is |component| / |mechanism|."""

    component: int
    cosine: float
    ratio: float


@dataclass(frozen=True)
class MechanismFit:
    """best: the component of highest cosine. best_column: the same where only the mechanism's own row or column of
    each component is looked at. match: the component assigned to this mechanism alone. site: None where it spans sites.
    size: norm of the mechanism, which is the one of `feature` there.
    """

    name: str
    site: str | None
    feature: int
    size: float
    best: Fit
    best_column: Fit
    match: Fit | None


@dataclass(frozen=True)
class Comparison:
    """products [S, C, P]: inner products of components and mechanisms. Squared norms: columns [S, C, P] of each
    mechanism's own row or column of each component, components [S, C] whole, mechanisms [P].
    """

    names: Sequence[str]
    features: Sequence[int]
    products: Floats
    columns: Floats
    components: Floats
    mechanisms: Floats

    def kept(self, s: int) -> NDArray[np.bool_]:
        """Components of instance s that are not negligible: bool [C]."""
        return not_negligible(np.sqrt(self.components[s]))

    def fits(self, s: int, site: str | None) -> list[MechanismFit]:
        wanted = np.sqrt(self.mechanisms)
        wanted[wanted < ZERO * wanted.max()] = 0.0
        whole = _cosines_and_ratios(self.products[s], np.sqrt(self.components[s])[:, None], wanted)
        columns = _cosines_and_ratios(self.products[s], np.sqrt(self.columns[s]), wanted)
        matches = _assign(whole[0], self.kept(s))
        return [
            MechanismFit(
                name,
                site,
                self.features[p],
                float(wanted[p]),
                best=_fit(whole, int(whole[0][:, p].argmax()), p),
                best_column=_fit(columns, int(columns[0][:, p].argmax()), p),
                match=_fit(whole, matches[p], p) if p in matches else None,
            )
            for p, name in enumerate(self.names)
        ]


def cosine_over_sites(fits: Sequence[MechanismFit]) -> float:
    """Of one feature's mechanisms at several sites, concatenated, and the best component for each, concatenated too."""
    sizes, ratios, cosines = np.array([(fit.size, fit.best.ratio, fit.best.cosine) for fit in fits]).T
    norms = np.linalg.norm(sizes), np.linalg.norm(sizes * ratios)
    return float((sizes**2 * ratios * cosines).sum() / (norms[0] * norms[1])) if min(norms) > 0 else 0.0


def compare_features(site: SiteInFeatures, parts: Sequence[Mapping[str, Any]]) -> Comparison:
    """With slots a_m along the features and b_m across them, and mechanism i the row w_i of the weight:

    <component, mechanism i> = sum_m a_mi (b_m . w_i), |component|^2 = sum_mm' (a_m . a_m') (b_m . b_m').
    """
    sides = {part["side"] for part in parts}
    assert len(sides) == 1, f"a site is split by what it reads or by what it writes, not both: {parts}"
    along, across, weight = site.along(sides.pop())
    features = [int(part["feature"]) for part in parts]
    own, wanted = along[..., features], weight[features]
    gram = across @ across.mT
    return Comparison(
        names=[part["name"] for part in parts],
        features=features,
        products=(own * (across @ wanted.T)).sum(2).numpy(),
        columns=(own * (gram @ own)).sum(2).clamp(min=0).numpy(),  # rounding may leave -1e-33 of slots that cancel
        components=((along @ along.mT) * gram).sum((2, 3)).clamp(min=0).numpy(),
        mechanisms=wanted.square().sum(1).numpy(),
    )


def united(comparisons: Sequence[Comparison], kind: str) -> Comparison:
    """Components and mechanisms concatenated over sites: `<kind><number>`, one mechanism for each feature."""
    features = sorted({feature for comparison in comparisons for feature in comparison.features})

    def total(values: Sequence[Floats]) -> Floats:
        """Each site's [..., P], summed by feature."""
        summed = np.zeros((*values[0].shape[:-1], len(features)))
        for comparison, value in zip(comparisons, values, strict=True):
            for p, feature in enumerate(comparison.features):
                summed[..., features.index(feature)] += value[..., p]
        return summed

    return Comparison(
        names=[f"{kind}{feature}" for feature in features],
        features=features,
        products=total([c.products for c in comparisons]),
        columns=total([c.columns for c in comparisons]),
        components=np.sum([c.components for c in comparisons], axis=0),
        mechanisms=total([c.mechanisms for c in comparisons]),
    )


def not_negligible(norms: Floats) -> NDArray[np.bool_]:
    kept: NDArray[np.bool_] = norms > NEGLIGIBLE * norms.max()
    return kept


def _cosines_and_ratios(products: Floats, norms: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """[C, P] each, from norms of components [C, P or 1] and of mechanisms [P]; 0 where a norm is 0."""
    norms, wanted = np.broadcast_to(norms, products.shape), np.broadcast_to(wanted, products.shape)
    scales = norms * wanted
    cosines = np.divide(products, scales, out=np.zeros(products.shape), where=scales > 0)
    return cosines, np.divide(norms, wanted, out=np.zeros(products.shape), where=wanted > 0)


def _fit(cosines_and_ratios: tuple[Floats, Floats], component: int, mechanism: int) -> Fit:
    cosines, ratios = cosines_and_ratios
    return Fit(component, float(cosines[component, mechanism]), float(ratios[component, mechanism]))


def _assign(cosines: Floats, kept: NDArray[np.bool_]) -> dict[int, int]:
    """mechanism -> component, one to one: the pairs of cosine at least LEAST_COSINE with the largest sum. [C, P]."""
    candidates = np.flatnonzero(kept)
    close = cosines[candidates] >= LEAST_COSINE
    worth = np.where(close, cosines[candidates], 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return {int(p): int(candidates[row]) for row, p in zip(rows, columns, strict=True) if close[row, p]}
