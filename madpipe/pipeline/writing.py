"""A fitted pipeline as files: everything scoring needs, in the layout that `folder` describes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from madpipe import __version__
from madpipe.data.inputs import read_array
from madpipe.data.splits import Split
from madpipe.pipeline.ensemble import Ensemble, save_ensemble
from madpipe.pipeline.fitting import Decomposed
from madpipe.pipeline.fold import save_fold
from madpipe.pipeline.folder import seal
from madpipe.pipeline.source import Source
from madpipe.pipeline.stored_decomposition import save_decomposition
from madpipe.pipeline.stored_target import write_target
from madpipe.pipeline.trusted_rows import TrustedRows, keep_rows

SPLITS = "splits.npz"


def write_pipeline(
    folder: Path,
    source: Source,
    config: Mapping[str, Any],
    ensemble: Ensemble,
    decomposed: Sequence[Decomposed],
    splits: Sequence[Split],
    facts: Mapping[str, Any],
    keep_trusted: bool,
) -> None:
    """Write into the staging folder `folder` and seal it; `facts` are added to the manifest."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    target = write_target(folder / "target", source.target)
    for k, fold in enumerate(ensemble.folds):
        place = folder / "folds" / str(k)
        save_decomposition(fold.observer.method, place / "decomposition", decomposed[k].quality)
        save_fold(fold, place)
    save_ensemble(ensemble, folder / "ensemble")
    write_splits(folder, splits)
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
            "columns": source.columns,
            "sites": [site.name for site in source.sites],
            "folds": len(ensemble.folds),
            "crossed": len(ensemble.calibration.combined) > 1,
            "calibration_size": ensemble.calibration.size,
            "seed": config["seed"],
            **facts,
        },
    )


def write_trusted(folder: Path, trusted: np.ndarray, splits: Sequence[Split]) -> None:
    """Rows of the first split by part, for controls and recalibration."""
    split = splits[0]
    keep_rows(folder, TrustedRows(trusted[split.fit], trusted[split.validation], trusted[split.calibration]))


def write_splits(folder: Path, splits: Sequence[Split]) -> None:
    indices: dict[str, Any] = {}
    for k, split in enumerate(splits):
        indices |= {f"fit_{k}": split.fit, f"validation_{k}": split.validation, f"calibration_{k}": split.calibration}
    np.savez_compressed(folder / SPLITS, **indices)


def read_split(folder: Path, k: int = 0) -> Split:
    """Split `k` of those that `write_splits` wrote."""
    return Split(*(read_array(folder / SPLITS, f"{part}_{k}") for part in ("fit", "validation", "calibration")))
