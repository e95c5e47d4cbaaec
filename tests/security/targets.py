"""What is fuzzed. A target takes bytes, as a file that a stranger made, and may raise none but madpipe's own errors.

The property tests beside this file run them on mutated files, `benchmarks/fuzz.py` under a coverage-guided fuzzer.
"""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from madpipe.config.loading import load_config
from madpipe.config.resolving import resolved
from madpipe.data.inputs import open_inputs, read_array
from madpipe.detectors import storage
from madpipe.errors import MadpipeError
from madpipe.pipeline.folder import PIPELINE, digest, write_manifest
from madpipe.pipeline.scorer import Pipeline
from madpipe.targets.load import read_state

BATCHES = 20  # of 64 rows that are read of a stream
UNPICKLERS = ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads")


class UnpickledError(BaseException):
    """Something called an unpickler. No Exception, so that no `except Exception` hides it."""


def forbid_pickles(put: Callable[[Any, str, object], None] = setattr) -> None:
    """Every door of `pickle` raises from here on; `put` is setattr, or pytest's monkeypatch.setattr."""

    def refuse(*_: object, **__: object) -> None:
        raise UnpickledError("something was unpickled")

    for name in UNPICKLERS:
        put(pickle, name, refuse)


@dataclass(frozen=True)
class Target:
    """run: raises MadpipeError, or nothing. seeds: whole files to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def config_target(folder: Path, seeds: tuple[bytes, ...]) -> Target:
    path = folder / "config.yaml"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        resolved(load_config(path))

    return Target(run, seeds)


def rows_target(folder: Path, suffix: str) -> Target:
    """A file of inputs, read whole and as a stream."""
    path = folder / f"rows{suffix}"

    def run(content: bytes) -> None:
        path.write_bytes(content)
        for read in (lambda: read_array(path), lambda: list(islice(open_inputs([path], None, 64), BATCHES))):
            try:
                read()
            except MadpipeError:
                continue

    return Target(run, tuple(_row_files(folder, suffix)))


def _row_files(folder: Path, suffix: str) -> list[bytes]:
    rows = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    if suffix == ".csv":
        return [b"a,b\n1,2\n3,4\n", b'"a,""b",c\n1e5,-2\n,nan\n', "\ufeffä,x_0\n0,1\n".encode()]
    if suffix in (".npy", ".npz"):
        arrays = [rows, np.asfortranarray(rows), rows.astype(">f8"), rows[:, 0] > 0]
        save = np.save if suffix == ".npy" else np.savez
        files = [_bytes_of(save, array) for array in arrays]
        return files if suffix == ".npy" else [*files, _bytes_of(np.savez_compressed, rows)]
    import pandas as pd
    from safetensors.numpy import save

    if suffix == ".safetensors":
        return [save({"x": rows}), save({"x": rows, "y": rows > 0})]
    path = folder / "seed.parquet"
    files = []
    for frame in (pd.DataFrame(rows, columns=list("abcd")), pd.DataFrame({"x": [list(row) for row in rows]})):
        frame.to_parquet(path)
        files.append(path.read_bytes())
    return files


def _bytes_of(save: Callable[..., None], array: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


def weights_target(folder: Path, suffix: str) -> Target:
    """A state dict."""
    import torch
    from safetensors.torch import save

    path = folder / f"weights{suffix}"
    state = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.zeros(2)}
    file = io.BytesIO()
    torch.save(state, file)

    def run(content: bytes) -> None:
        path.write_bytes(content)
        read_state(path)

    return Target(run, (save(state) if suffix == ".safetensors" else file.getvalue(),))


def detector_target(folder: Path) -> Target:
    from madpipe.detectors.gaussian_mixture import GaussianMixtureDetector
    from madpipe.detectors.mahalanobis import MahalanobisDetector

    path = folder / "detector.skops"
    rows = np.random.default_rng(0).normal(size=(40, 3))
    seeds = []
    for detector in (MahalanobisDetector(), GaussianMixtureDetector()):
        storage.save(detector.fit(rows), path)
        seeds.append(path.read_bytes())

    def run(content: bytes) -> None:
        path.write_bytes(content)
        storage.load(path)

    return Target(run, tuple(seeds))


def pipeline_target(pipeline: Path) -> Target:
    """One file of the pipeline folder exchanged, the digests made to agree, the pipeline loaded.

    The first byte says which file; the others are its content. The factory's file is left alone: it is code. `pipeline`
    is a copy of the fuzzer's own, written to.
    """
    manifest = json.loads((pipeline / PIPELINE.manifest).read_text())
    facts = {key: value for key, value in manifest.items() if key not in ("format", "files", "digest")}
    names = [name for name in sorted(manifest["files"]) if name != "target/model.py" and "folds/1" not in name]
    whole = {name: (pipeline / name).read_bytes() for name in names}

    def run(content: bytes) -> None:
        if not content:
            return
        name, body = names[content[0] % len(names)], content[1:]
        try:
            (pipeline / name).write_bytes(body)
            write_manifest(pipeline, facts, manifest["files"] | {name: digest(pipeline / name)})
            Pipeline.load(pipeline)
        finally:
            (pipeline / name).write_bytes(whole[name])

    return Target(run, tuple(bytes([i]) + whole[name] for i, name in enumerate(names)))


def manifest_target(pipeline: Path) -> Target:
    """The manifest exchanged; where it is JSON, its own digest made to agree."""
    path = pipeline / PIPELINE.manifest
    whole = path.read_bytes()

    def run(content: bytes) -> None:
        try:
            path.write_bytes(content)
            _agree(pipeline, content)
            Pipeline.load(pipeline)
        finally:
            path.write_bytes(whole)

    return Target(run, (whole,))


def _agree(pipeline: Path, content: bytes) -> None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict) and isinstance(document.get("files"), dict):
        facts = {key: value for key, value in document.items() if key not in ("files", "digest")}
        write_manifest(pipeline, facts, document["files"])
