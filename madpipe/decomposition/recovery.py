"""Are known mechanisms recovered? MMCS, ML2R and one-to-one matches of components to a task's ground truth.

A mechanism is one feature's row (side "read") or column ("write") of a site's weight, everything else zero; a block is
a whole weight that is one mechanism of a known rank. Where components span sites, a mechanism is all the parts of one
feature, concatenated over sites. Components stay factors: no matrix [C, I, O] is built.

Legend: S instances, C components, m slots of one component at one site, F features, P mechanisms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from madpipe.decomposition.feature_coordinates import SiteInFeatures, site_in_features
from madpipe.decomposition.method import Method

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
    """

    name: str
    site: str | None
    best: Fit
    best_column: Fit
    match: Fit | None


@dataclass(frozen=True)
class BlockCount:
    """How many rank-one parts that are not negligible a block was split into, and its rank: how many are right."""

    parts: int
    rank: int


@dataclass(frozen=True)
class Recovery:
    """Of one instance. components: site -> how many are not negligible, "" for all sites where components span them."""

    fits: tuple[MechanismFit, ...]
    components: Mapping[str, int]
    blocks: Mapping[str, BlockCount]

    @property
    def mechanisms(self) -> int:
        return len(self.fits)

    @property
    def matched(self) -> int:
        return self.mechanisms - len(self.missing)

    @property
    def missing(self) -> list[str]:
        """Names of mechanisms without a match."""
        return [fit.name for fit in self.fits if fit.match is None]

    @property
    def spare(self) -> int:
        """Components that are not negligible and match nothing: halves of a mechanism, or leftovers."""
        return sum(self.components.values()) - self.matched

    @property
    def broken(self) -> bool:
        """Whether a mechanism is missing or a block has the wrong number of parts; spare components break nothing."""
        return bool(self.missing) or any(block.parts != block.rank for block in self.blocks.values())

    def at(self, site: str) -> "Recovery":
        """What lies at one site, where each component is of one site."""
        return Recovery(
            tuple(fit for fit in self.fits if fit.site == site),
            {name: count for name, count in self.components.items() if name == site},
            {name: block for name, block in self.blocks.items() if name == site},
        )

    def figures(self) -> dict[str, float]:
        """`<figure>`, `<figure>/<site>` where components are of one site, and `block_parts/<site>`.

        mmcs, ml2r: means over mechanisms of the highest cosine, and of the norm ratio at it. mmcs_column, ml2r_column:
        the published form (SPD, arXiv 2506.20790, section 3.1), which does not see what else a component holds.
        mmcs_alive, ml2r_alive: means over matches, a mechanism without one counted 0. A mechanism of no norm counts 0
        everywhere. matched, mechanisms, spare, broken: as the attributes.
        """
        figures = self._means() | {"broken": float(self.broken)}
        for site in filter(None, self.components):
            figures |= {f"{name}/{site}": value for name, value in self.at(site)._means().items()}
        return figures | {f"block_parts/{site}": float(block.parts) for site, block in self.blocks.items()}

    def _means(self) -> dict[str, float]:
        """Means are left out where there is no mechanism."""
        means = {name: float(getattr(self, name)) for name in ("matched", "mechanisms", "spare")}
        if not self.fits:
            return means
        chosen = {
            "": [fit.best for fit in self.fits],
            "_column": [fit.best_column for fit in self.fits],
            "_alive": [fit.match or Fit(-1, 0.0, 0.0) for fit in self.fits],
        }
        for name, fits in chosen.items():
            means[f"mmcs{name}"] = float(np.mean([fit.cosine for fit in fits]))
            means[f"ml2r{name}"] = float(np.mean([fit.ratio for fit in fits]))
        return means


@torch.no_grad()
def recovery(method: Method, mechanisms: Mapping[str, Any]) -> list[Recovery]:
    """One per instance. What a task's `mechanisms` say of sites that are not decomposed is left out."""
    assert "parts" in mechanisms or "blocks" in mechanisms, f"no parts and no blocks, only {sorted(mechanisms)}"
    sites = {site.name: site_in_features(method, i, mechanisms) for i, site in enumerate(method.model.sites)}
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for part in mechanisms.get("parts", []):
        if part["site"] in sites:
            parts.setdefault(part["site"], []).append(part)
    comparisons = {site: _compare(sites[site], own) for site, own in parts.items()}
    if method.spans_sites and comparisons:
        comparisons = {"": _united(list(comparisons.values()))}
    ranks = {block["site"]: block["rank"] for block in mechanisms.get("blocks", []) if block["site"] in sites}
    sizes = {site: sites[site].part_sizes().numpy() for site in ranks}
    return [
        Recovery(
            tuple(fit for site, comparison in comparisons.items() for fit in comparison.fits(s, site or None)),
            {site: int(comparison.kept(s).sum()) for site, comparison in comparisons.items()},
            {site: BlockCount(int(_not_negligible(sizes[site][s]).sum()), rank) for site, rank in ranks.items()},
        )
        for s in range(method.model.instances)
    ]


@dataclass(frozen=True)
class _Comparison:
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
        return _not_negligible(np.sqrt(self.components[s]))

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
                best=_fit(whole, int(whole[0][:, p].argmax()), p),
                best_column=_fit(columns, int(columns[0][:, p].argmax()), p),
                match=_fit(whole, matches[p], p) if p in matches else None,
            )
            for p, name in enumerate(self.names)
        ]


def _compare(site: SiteInFeatures, parts: Sequence[Mapping[str, Any]]) -> _Comparison:
    """With slots a_m along the features and b_m across them, and mechanism i the row w_i of the weight:

    <component, mechanism i> = sum_m a_mi (b_m . w_i), |component|^2 = sum_mm' (a_m . a_m') (b_m . b_m').
    """
    sides = {part["side"] for part in parts}
    assert len(sides) == 1, f"a site is split by what it reads or by what it writes, not both: {parts}"
    along, across, weight = site.along(sides.pop())
    features = [int(part["feature"]) for part in parts]
    own, wanted = along[..., features], weight[features]
    gram = across @ across.mT
    return _Comparison(
        names=[part["name"] for part in parts],
        features=features,
        products=(own * (across @ wanted.T)).sum(2).numpy(),
        columns=(own * (gram @ own)).sum(2).clamp(min=0).numpy(),  # rounding may leave -1e-33 of slots that cancel
        components=((along @ along.mT) * gram).sum((2, 3)).clamp(min=0).numpy(),
        mechanisms=wanted.square().sum(1).numpy(),
    )


def _united(comparisons: Sequence[_Comparison]) -> _Comparison:
    """Components and mechanisms concatenated over sites: one mechanism for each feature."""
    features = sorted({feature for comparison in comparisons for feature in comparison.features})

    def total(values: Sequence[Floats]) -> Floats:
        """Each site's [..., P], summed by feature."""
        summed = np.zeros((*values[0].shape[:-1], len(features)))
        for comparison, value in zip(comparisons, values, strict=True):
            for p, feature in enumerate(comparison.features):
                summed[..., features.index(feature)] += value[..., p]
        return summed

    return _Comparison(
        names=[f"feature{feature}" for feature in features],
        features=features,
        products=total([c.products for c in comparisons]),
        columns=total([c.columns for c in comparisons]),
        components=np.sum([c.components for c in comparisons], axis=0),
        mechanisms=total([c.mechanisms for c in comparisons]),
    )


def _not_negligible(norms: Floats) -> NDArray[np.bool_]:
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
