"""A settled decomposition as a folder: components.safetensors and decomposition.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madpipe.components.checkpoint import load_json, load_matching, load_tensors, save_json, save_tensors
from madpipe.components.sites import Site
from madpipe.decomposition.component_view import ComponentView
from madpipe.decomposition.losses import OutputMetric
from madpipe.decomposition.method import Method, TrustedStatistics
from madpipe.errors import DamagedFileError
from madpipe.registry import METHODS

TARGET = "model.target."  # the target's own tensors are stored with the target


def save_decomposition(method: Method, folder: Path, quality: Mapping[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value for key, value in method.state_dict().items() if not key.startswith(TARGET)}
    save_tensors(state, folder / "components.safetensors")
    statistics = method.statistics
    save_tensors({"input_std": statistics.input_std}, folder / "statistics.safetensors")
    document = {
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "instances": method.model.instances,
        "variants": method.variant_names,
        "sites": [vars(site) | {"slots": k} for site, k in zip(method.model.sites, method.model.slots, strict=True)],
        "hidden_variances": dict(statistics.hidden_variances),
        "output": statistics.metric.kind,
        "output_variance": statistics.metric.variance,
        "quality": dict(quality),
        "clusters": [_plain(view) for view in method.clusters] if method.clusters else None,
    }
    save_json(document, folder / "decomposition.json")


def load_decomposition(folder: Path, target: nn.Module) -> Method:
    """The method with its components, ready to observe; DamagedFileError where the files do not fit each other.

    Documents older than clustering have no `clusters`.
    """
    document = load_json(folder / "decomposition.json")
    try:
        method = _build(document, target, load_tensors(folder / "statistics.safetensors")["input_std"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(
            f"{folder / 'decomposition.json'}: {type(error).__name__}: {error}".splitlines()[0]
        ) from None
    load_matching(method, folder / "components.safetensors", ignore=TARGET)
    return method.eval().requires_grad_(False)


def _build(document: Mapping[str, Any], target: nn.Module, input_std: torch.Tensor) -> Method:
    method_class = METHODS.load(document["method"])
    sites = [Site(name=s["name"], kind=s["kind"], d_in=s["d_in"], d_out=s["d_out"]) for s in document["sites"]]
    method: Method = method_class(
        target, sites, method_class.Config.model_validate(document["config"]), document["instances"]
    )
    method.statistics = TrustedStatistics(
        input_std=input_std,
        hidden_variances={name: float(value) for name, value in document["hidden_variances"].items()},
        spans={},
        metric=OutputMetric(document["output"], float(document["output_variance"])),
    )
    clusters = document.get("clusters")
    if clusters is not None:
        method.clusters = tuple(_view(labels, method) for labels in clusters)
    return method


def _plain(view: ComponentView) -> dict[str, list[int]]:
    """site -> the component of each slot, -1 where it is in none."""
    return {site: labels.tolist() for site, labels in view.labels.items()}


def _view(labels: Mapping[str, Any], method: Method) -> ComponentView:
    """ValueError unless there is a component, or -1, for each slot."""
    slots = {site.name: k for site, k in zip(method.model.sites, method.model.slots, strict=True)}
    if {site: len(own) for site, own in labels.items()} != slots:
        raise ValueError("the clusters are not of its slots.")
    own = {site: torch.tensor(labels[site], dtype=torch.long) for site in slots}
    return ComponentView(own, 1 + max((int(values.max()) for values in own.values()), default=-1))
