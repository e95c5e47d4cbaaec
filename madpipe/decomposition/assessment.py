"""What is reported of every seed of a decomposition: its quality, and what it recovers of known mechanisms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpipe.decomposition.method import Method
from madpipe.decomposition.quality import quality_by_seed
from madpipe.decomposition.recovery import recovery
from madpipe.decomposition.selection import description_length

RENAMED = {"reconstruction_importance": "reconstruction"}  # in a document
COUNTS = (
    "alive",
    "components",
    "matched",
    "mechanisms",
    "spare",
    "block_parts",
    "features",
    "features_found",
    "block_rank",
)


@dataclass(frozen=True)
class Assessment:
    """Of one seed. figures: variant -> figure or `<figure>/<site>` -> value, as `quality` and `recovery` name them."""

    seed: int
    description_length: float
    figures: Mapping[str, Mapping[str, float]]

    def document(self) -> dict[str, Any]:
        """`seed`, `description_length`, then the figures of the first variant; `variants` has each, if several.

        Figures of one site stand under `sites`; names are those of RENAMED.
        """
        variants = {name: _by_site(figures) for name, figures in self.figures.items()}
        first = next(iter(variants.values()))
        whole = {"seed": self.seed, "description_length": self.description_length, **first}
        return whole | ({"variants": variants} if len(variants) > 1 else {})


def assess(method: Method, chunks: Sequence[Tensor], mechanisms: Mapping[str, Any] | None) -> list[Assessment]:
    """One per seed: `quality` on rows in chunks [B, ...], and how many components are alive; where `mechanisms` are
    known, what is recovered of them.
    """
    names = method.variant_names
    found = recovery(method, mechanisms) if mechanisms is not None and comparable(mechanisms, method) else []
    result = []
    for seed, figures in enumerate(quality_by_seed(method, chunks)):
        by_variant = {}
        for v, name in enumerate(names):
            instance = seed * len(names) + v
            known = found[instance].figures() if found else {}
            if method.has_components:
                known["components"] = float(alive_components(method, instance))
            own = {key.removesuffix(f"/{name}"): value for key, value in figures.items() if key.endswith(f"/{name}")}
            by_variant[name] = known | own
        result.append(Assessment(seed, description_length(method, figures), by_variant))
    return result


def comparable(mechanisms: Any, method: Method) -> bool:
    """Whether they are of a form that components can be compared with (tasks/without_anomalies.py); functions span
    sites, so that where subcomponents are not grouped nothing can be compared with them.
    """
    if not isinstance(mechanisms, Mapping):
        return False
    return "parts" in mechanisms or "blocks" in mechanisms or ("functions" in mechanisms and method.has_components)


def alive_components(method: Method, instance: int) -> int:
    """Components of which some slot is alive."""
    view = method.component_views()[instance]
    labels = [view.labels[site.name][method.alive(i)[instance].cpu()] for i, site in enumerate(method.model.sites)]
    return len(torch.cat(labels).unique())


def _by_site(figures: Mapping[str, float]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in figures.items():
        figure, _, site = key.partition("/")
        place = result.setdefault("sites", {}).setdefault(site, {}) if site else result
        place[RENAMED.get(figure, figure)] = _plain(figure, value)
    return result


def _plain(figure: str, value: float) -> float | int | bool:
    if figure == "broken":
        return bool(value)
    return int(value) if figure in COUNTS else value
