"""A fitted pipeline as files: everything scoring needs, in the layout that `folder` describes."""

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from madpipe import __version__
from madpipe.components.checkpoint import save_tensors
from madpipe.data.splits import Split
from madpipe.pipeline.fold import Fold, save_fold
from madpipe.pipeline.folder import seal
from madpipe.pipeline.source import Source
from madpipe.pipeline.stored_decomposition import save_decomposition

KEPT_ROWS = 20_000  # most rows of each part that are stored for controls and recalibration


def write_pipeline(
    folder: Path,
    source: Source,
    config: Mapping[str, Any],
    folds: Sequence[Fold],
    quality: Sequence[Mapping[str, float]],
    splits: Sequence[Split],
    precision: str,
    keep_trusted: bool,
) -> None:
    """Write into the staging folder `folder` and seal it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    target = _write_target(folder / "target", source)
    for k, fold in enumerate(folds):
        place = folder / "folds" / str(k)
        save_decomposition(fold.observer.method, place / "decomposition", quality[k])
        save_fold(fold, place)
    _write_splits(folder, splits)
    if keep_trusted:
        write_trusted(folder, source.trusted, splits)
    seal(
        folder,
        {
            "madpipe": __version__,
            "torch": torch.__version__,
            "target": target,
            "trusted": {"name": source.name, "rows": len(source.trusted)},
            "input_shape": list(source.trusted.shape[1:]),
            "key": source.key,
            "sites": [site.name for site in source.sites],
            "folds": len(folds),
            "calibration_size": sum(len(fold.calibration) for fold in folds),
            "precision": precision,
            "seed": config["seed"],
        },
    )


def write_trusted(folder: Path, trusted: np.ndarray, splits: Sequence[Split]) -> None:
    """Rows of the first split by part, for controls and recalibration; at most KEPT_ROWS of each."""
    (folder / "trusted").mkdir()
    split = splits[0]
    parts = {"fit": split.fit, "validation": split.validation, "calibration": split.calibration}
    rows: dict[str, Any] = {name: trusted[index[:KEPT_ROWS]] for name, index in parts.items()}
    np.savez_compressed(folder / "trusted" / "trusted.npz", **rows)


def _write_splits(folder: Path, splits: Sequence[Split]) -> None:
    indices: dict[str, Any] = {}
    for k, split in enumerate(splits):
        indices |= {f"fit_{k}": split.fit, f"validation_{k}": split.validation, f"calibration_{k}": split.calibration}
    np.savez_compressed(folder / "splits.npz", **indices)


def _write_target(folder: Path, source: Source) -> dict[str, Any]:
    """Copy the factory's file, write weights as safetensors; how to build the target again."""
    folder.mkdir()
    target = source.target
    save_tensors(target.module.state_dict(), folder / "weights.safetensors")
    factory, place = target.factory, target.factory.rpartition(":")
    if target.source is not None:
        shutil.copyfile(target.source, folder / "model.py")
        factory = f"model.py:{place[2]}"
    package = place[0].split(".")[0]
    return {
        "factory": factory,
        "kwargs": target.kwargs,
        "output": target.output,
        "weights_digest": target.weights_digest,
        "package": None if target.source else {package: _version(package)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
