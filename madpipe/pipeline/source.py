"""Where a fit starts: the target and the trusted rows a config names, or those of a built-in task."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from madpipe.components.model import ComponentModel
from madpipe.components.sites import Site, find_sites
from madpipe.data.inputs import check_rows, column_names, read_array
from madpipe.errors import ShapeError
from madpipe.targets.load import OutputKind, Target, load_target


@dataclass(frozen=True)
class Source:
    """The target under question, the sites to decompose, and trusted rows x [N, ...] float32 with their origin.

    columns: the names of the table's columns that rows came from, in order; None where they came from an array.
    mechanisms: those of a task that knows them, as its ground truth.
    """

    target: Target
    sites: tuple[Site, ...]
    trusted: NDArray[np.float32]
    key: str | None
    name: str
    columns: list[str] | None = None
    mechanisms: Mapping[str, Any] | None = None

    @cached_property
    def digest(self) -> str:
        """Of the trusted rows: sha256 of their shape and bytes."""
        digest = hashlib.sha256(str(self.trusted.shape).encode())
        digest.update(np.ascontiguousarray(self.trusted).data)
        return digest.hexdigest()


def own_source(target: Mapping[str, Any], data: Mapping[str, Any], base: Path) -> Source:
    """The user's own model and data; every path is relative to `base`."""
    weights = Path(target["weights"]) if target["weights"] else None
    output: OutputKind = target["output"]
    loaded = load_target(target["factory"], target["kwargs"], weights, output, base)
    path = base / data["trusted"]
    trusted = check_rows(read_array(path, data["key"]), None, str(path))
    columns = column_names(path, data["key"])
    return make_source(loaded, target["sites"], trusted, data["key"], Path(data["trusted"]).stem, columns)


def make_source(
    target: Target,
    globs: tuple[str, ...],
    trusted: NDArray[np.float32],
    key: str | None,
    name: str,
    columns: list[str] | None = None,
) -> Source:
    """Check that the target takes these rows and gives one output vector per row; find its sites."""
    sites = find_sites(target.module, globs)
    run_once(target, trusted[:2])
    return Source(target, in_running_order(target, sites, trusted[:2]), trusted, key, name, columns)


def in_running_order(target: Target, sites: tuple[Site, ...], x: NDArray[np.float32]) -> tuple[Site, ...]:
    """Sites in the order in which the forward pass uses them; modules may be declared in another."""
    plain = ComponentModel(target.module, sites, [1] * len(sites))
    with torch.no_grad():
        ran = list(plain.clean_forward(torch.from_numpy(np.array(x))).site_inputs)
    return tuple(sorted(sites, key=lambda site: ran.index(site.name)))


def run_once(target: Target, x: NDArray[np.float32]) -> None:
    """ShapeError unless the target maps [B, ...] to [B, ...] with finite values."""
    try:
        with torch.no_grad():
            output = target.module(torch.from_numpy(np.array(x)))
    except Exception as error:
        shape = "x".join(str(n) for n in x.shape[1:])
        raise ShapeError(
            f"the target fails on trusted rows of shape {shape}: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim < 2 or output.shape[0] != len(x):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ShapeError(f"the target must give a tensor [inputs, outputs]; for {len(x)} inputs it gave {found}.")
    if not bool(torch.isfinite(output).all()):
        raise ShapeError("the target gives NaN or infinite outputs on trusted rows; check its weights.")
