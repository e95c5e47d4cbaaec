"""A decomposition folder: every seed of one decomposition with what it was made of, for `fit` to take it up.

manifest.json   format version, versions, target, digest of the trusted rows, seeds, sha256 of every file, its own too
config.yaml     the resolved config
target/         the factory's file (where it is one) and weights.safetensors
components/     components.safetensors, statistics.safetensors, decomposition.json: all seeds, seed-major
splits.npz      indices of the fit, validation and calibration rows; only the fit rows were trained on
quality.json    the figures of every seed
figures/        pictures of the best seed; may be deleted
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from madpipe import __version__
from madpipe.components.checkpoint import save_json
from madpipe.components.sites import Site
from madpipe.data.splits import Split
from madpipe.decomposition.method import Method
from madpipe.decomposition.selection import select_seed
from madpipe.errors import ConfigError, ContentError
from madpipe.pipeline.folder import DECOMPOSITION, folder_digest, seal, verify
from madpipe.pipeline.source import Source
from madpipe.pipeline.stored_decomposition import load_decomposition, save_decomposition
from madpipe.pipeline.stored_target import write_target
from madpipe.pipeline.writing import read_split, write_splits

SHOWN_DIGEST = 12  # characters of a digest in a message


def write_decomposition(
    folder: Path,
    source: Source,
    config: Mapping[str, Any],
    method: Method,
    split: Split,
    quality: Sequence[Mapping[str, Any]],
    best: int,
    run_id: str | None,
) -> None:
    """Write into the staging folder `folder`, beside what is in it already, and seal it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    target = write_target(folder / "target", source.target)
    save_decomposition(method, folder / "components", {})
    write_splits(folder, [split])
    save_json({"best_seed": best, "quality": list(quality)}, folder / "quality.json")
    facts = {
        "madpipe": __version__,
        "torch": torch.__version__,
        "target": target,
        "trusted": {"name": source.name, "rows": len(source.trusted), "digest": source.digest},
        "input_shape": list(source.trusted.shape[1:]),
        "sites": [vars(site) for site in source.sites],
        "decomposition": {"method": method.name, **method.config.model_dump(mode="json")},
        "clustering": config["clustering"],
        "best_seed": best,
        "seed": config["seed"],
        "run_id": run_id,
    }
    seal(folder, facts, DECOMPOSITION)


@dataclass(frozen=True)
class DecompositionFolder:
    """A verified folder; no code in it is run. address: what the config calls it."""

    path: Path
    address: str
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, address: str) -> "DecompositionFolder":
        """MissingFileError where `path` is no decomposition folder, DamagedFileError where a digest is wrong."""
        return cls(path, address, verify(path, DECOMPOSITION))

    @property
    def digest(self) -> str:
        return folder_digest(self.path, DECOMPOSITION)

    @property
    def run_id(self) -> str | None:
        """The MLflow run that trained it, in the store it was logged in."""
        run_id: str | None = self.facts["run_id"]
        return run_id

    @property
    def settings(self) -> dict[str, Any]:
        """What it was trained with, as a config's `decomposition` section."""
        return dict(self.facts["decomposition"])

    @property
    def clustering(self) -> Mapping[str, Any] | None:
        """How its components were found, as a config's `clustering` section; None in folders older than that."""
        clustering: Mapping[str, Any] | None = self.facts.get("clustering")
        return clustering

    @property
    def seeds(self) -> int:
        return int(self.settings["seeds"])

    def seed(self, asked: int | None) -> int:
        """`asked`, or the best one; ConfigError where there is no such seed."""
        if asked is not None and asked >= self.seeds:
            known = f"the seeds 0 to {self.seeds - 1}" if self.seeds > 1 else "seed 0 alone"
            raise ConfigError(f"decomposition.select: {self.address} has {known}, and no seed {asked}.")
        return int(self.facts["best_seed"]) if asked is None else asked

    def split(self) -> Split:
        return read_split(self.path)

    def trained_on(self, source: Source) -> bool:
        """Whether the split is one of the trusted rows of `source`."""
        same: bool = self.facts["trusted"]["digest"] == source.digest
        return same

    def method(self, target: nn.Module, seed: int) -> Method:
        """One seed of the decomposition of `target`, frozen."""
        return select_seed(load_decomposition(self.path / "components", target), seed)

    def refuse_other(self, source: Source) -> None:
        """ContentError unless this is a decomposition of the target of `source`, at its sites, for its outputs."""
        own, theirs = self.facts["target"], source.target
        here = f"decomposition.from: {self.address}"
        if own["weights_digest"] != theirs.weights_digest:
            digests = own["weights_digest"][:SHOWN_DIGEST], theirs.weights_digest[:SHOWN_DIGEST]
            raise ContentError(
                f"{here} is of another network: its weights have the digest {digests[0]}..., this target's "
                f"{digests[1]}...; decompose this target."
            )
        if own["output"] != theirs.output:
            raise ContentError(
                f"{here} is for {own['output']} outputs, and target.output is {theirs.output}; decompose again."
            )
        sites = {Site(**site) for site in self.facts["sites"]}
        if sites != set(source.sites):
            names = [", ".join(sorted(site.name for site in some)) for some in (sites, source.sites)]
            raise ContentError(
                f"{here} has the sites {names[0]}, and target.sites asks for {names[1]}; decompose again."
            )
