"""Are known mechanisms recovered? MMCS, ML2R and one-to-one matches of components to a task's ground truth.

A mechanism is one feature's row (side "read") or column ("write") of a site's weight, everything else zero; a block is
a whole weight that is one mechanism of a known rank. Where components span sites, a mechanism is all the parts of one
feature, concatenated over sites. Components stay factors: no matrix [C, I, O] is built.

A function (function_comparison.py) is rows and columns of several weights, concatenated over sites, and is always held
against components that span them: those of the components view.

Legend: S instances, K slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from madpipe.decomposition.feature_coordinates import SiteInFeatures, site_in_features
from madpipe.decomposition.function_comparison import compare_functions
from madpipe.decomposition.mechanism_comparison import (
    LEAST_COSINE,
    Comparison,
    Fit,
    MechanismFit,
    compare_features,
    cosine_over_sites,
    not_negligible,
    united,
)
from madpipe.decomposition.method import Method


class JoinedBlock(NamedTuple):
    """The component that holds most of a block: its share <component, W> / |W|^2 of the block's squared norm (the
    shares of all components and of the weight delta add up to one), and how many of its rank-one parts there are not
    negligible.
    """

    share: float
    rank: int


@dataclass(frozen=True)
class BlockCount:
    """How many rank-one parts that are not negligible a block was split into, and its rank: how many are right.

    joined: None where it is not known which slots make up a component.
    """

    parts: int
    rank: int
    joined: JoinedBlock | None = None


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
        """`<figure>`, `<figure>/<site>` where components are of one site, and of blocks `block_parts/<site>`,
        `block_joined/<site>` and `block_rank/<site>`: the share and the rank of the component that holds most of it.

        mmcs, ml2r: means over mechanisms of the highest cosine, and of the norm ratio at it. mmcs_column, ml2r_column:
        the published form (SPD, arXiv 2506.20790, section 3.1), which does not see what else a component holds.
        mmcs_alive, ml2r_alive: means over matches, a mechanism without one counted 0. A mechanism of no norm counts 0
        everywhere. matched, mechanisms, spare, broken: as the attributes. features, features_found, mmcs_features: how
        many features have mechanisms, at several sites; how many are found (cosine at least LEAST_COSINE of all their
        mechanisms, concatenated, with the best component for each); and the mean cosine.
        """
        figures = self._means() | {"broken": float(self.broken)} | self._features()
        for site in filter(None, self.components):
            figures |= {f"{name}/{site}": value for name, value in self.at(site)._means().items()}
        for site, block in self.blocks.items():
            figures[f"block_parts/{site}"] = float(block.parts)
            if block.joined:
                figures |= {f"block_joined/{site}": block.joined.share, f"block_rank/{site}": float(block.joined.rank)}
        return figures

    def _features(self) -> dict[str, float]:
        of_feature: dict[int, list[MechanismFit]] = {}
        for fit in self.fits:
            of_feature.setdefault(fit.feature, []).append(fit)
        if all(len(fits) == 1 for fits in of_feature.values()):
            return {}
        cosines = np.array([cosine_over_sites(fits) for fits in of_feature.values()])
        found = float((cosines >= LEAST_COSINE).sum())
        return {"features": float(len(cosines)), "features_found": found, "mmcs_features": float(cosines.mean())}

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
    sites = {site.name: site_in_features(method, i, mechanisms) for i, site in enumerate(method.model.sites)}
    if "functions" in mechanisms:
        comparisons = {"": compare_functions(method, sites, mechanisms["functions"])}
    else:
        comparisons = _compare_parts(method, sites, mechanisms)
    blocks = {block["site"]: block["rank"] for block in mechanisms.get("blocks", []) if block["site"] in sites}
    return [
        Recovery(
            tuple(fit for site, comparison in comparisons.items() for fit in comparison.fits(s, site or None)),
            {site: int(comparison.kept(s).sum()) for site, comparison in comparisons.items()},
            {site: _block(method, site, sites[site], s, rank) for site, rank in blocks.items()},
        )
        for s in range(method.model.instances)
    ]


def _compare_parts(
    method: Method, sites: Mapping[str, SiteInFeatures], mechanisms: Mapping[str, Any]
) -> dict[str, Comparison]:
    assert "parts" in mechanisms or "blocks" in mechanisms, f"no parts and no blocks, only {sorted(mechanisms)}"
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for part in mechanisms.get("parts", []):
        if part["site"] in sites:
            parts.setdefault(part["site"], []).append(part)
    comparisons = {site: compare_features(sites[site], own) for site, own in parts.items()}
    if method.spans_sites and comparisons:
        return {"": united(list(comparisons.values()), "feature")}
    return comparisons


def _block(method: Method, name: str, site: SiteInFeatures, s: int, rank: int) -> BlockCount:
    kept = torch.from_numpy(not_negligible(site.part_sizes()[s].numpy()))
    if not method.has_components:
        return BlockCount(int(kept.sum()), rank)
    view = method.component_views()[s]
    shares = view.total({name: site.shares()[s]})
    if not len(shares):
        return BlockCount(int(kept.sum()), rank, JoinedBlock(0.0, 0))
    most = int(shares.argmax())
    owners = view.labels[name].cpu()[:: method.slots_per_component]
    own = kept.view(len(owners), -1)[owners == most]
    return BlockCount(int(kept.sum()), rank, JoinedBlock(float(shares[most]), int(own.sum())))
