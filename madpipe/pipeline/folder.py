"""A pipeline folder: what lies where, digests of every file, written whole or not at all, verified when read.

pipeline.json                       format version, versions, target, input shape, sha256 of every file, its own too
config.yaml                         the resolved config
target/                             the factory's file (where it is one) and weights.safetensors
folds/<k>/decomposition/            components.safetensors, statistics.safetensors, decomposition.json
folds/<k>/{extractors,detectors}/   what extractors learned; one skops file per member
folds/<k>/{combiner.skops,involvement.safetensors,calibration.npz}
splits.npz                          indices of fit, validation and calibration rows, per fold
trusted/trusted.npz                 those rows, if data.keep_trusted; may be deleted
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import load_json, save_json
from madpipe.errors import DamagedFileError, MissingFileError

FORMAT = 1
MANIFEST = "pipeline.json"
OPTIONAL = "trusted/"  # files under it may be absent
CLOSED = ("target", "folds")  # folders in which a file that the manifest does not name could change scores


def refuse_existing(output: Path, overwrite: bool) -> None:
    """MissingFileError (something is in the way) unless `output` is free, or a pipeline that may be overwritten."""
    if not output.exists():
        return
    if not overwrite:
        raise MissingFileError(f"{output} exists already; choose another -o, or give --overwrite.")
    if output.is_file() or (any(output.iterdir()) and not (output / MANIFEST).is_file()):
        raise MissingFileError(
            f"{output} exists and is no pipeline folder, so --overwrite leaves it alone; choose another -o."
        )


def partial_folder(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder inside `<output>.partial`. `publish` moves it to `output`; without that nothing appears there."""
    folder = partial_folder(output) / "pipeline"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    yield folder


def publish(staged: Path, output: Path) -> None:
    """Move a sealed folder to `output`, replacing a pipeline that is there, and remove the working folder."""
    work = staged.parent
    if output.exists():
        os.replace(output, work / "replaced")
    os.replace(staged, output)
    shutil.rmtree(work, ignore_errors=True)


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest: `facts`, the format version, and a digest of every file there is."""
    files = {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_manifest(folder, facts, files)


def write_manifest(folder: Path, facts: Mapping[str, Any], files: Mapping[str, str]) -> None:
    manifest = {"format": FORMAT, **facts, "files": dict(files)}
    save_json(manifest | {"digest": _manifest_digest(manifest)}, folder / MANIFEST)


def read_facts(folder: Path) -> dict[str, Any]:
    """What `seal` was given; unverified."""
    return {k: v for k, v in load_json(folder / MANIFEST).items() if k not in ("format", "files", "digest")}


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, once every file named in it is there and unaltered, and no other where files are read from.

    MissingFileError where `folder` is no pipeline; DamagedFileError names the first file that is missing or altered.
    """
    if not (folder / MANIFEST).is_file():
        raise MissingFileError(
            f"{folder} is no pipeline folder: it has no {MANIFEST}. Make one with 'madpipe fit CONFIG -o {folder}'."
        )
    manifest = load_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DamagedFileError(
            f"{folder / MANIFEST}: format {manifest.get('format')}; this madpipe reads format {FORMAT}."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get("digest") != _manifest_digest(manifest):
        raise _altered(folder / MANIFEST)
    for name, expected in files.items():
        _verify_file(folder, name, expected)
    for path in (path for part in CLOSED for path in sorted((folder / part).rglob("*"))):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in files and "__pycache__" not in path.parts:
            raise DamagedFileError(f"{path}: not in the manifest, so it was not part of the fit; remove it.")
    return manifest


def _verify_file(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedFileError(f"{folder / MANIFEST}: names a file outside the folder ({name}).")
    if not path.is_file():
        if name.startswith(OPTIONAL):
            return
        raise DamagedFileError(f"{path}: missing from the pipeline; fit it again or restore the file.")
    if digest(path) != expected:
        raise _altered(path)


def _altered(path: Path) -> DamagedFileError:
    return DamagedFileError(f"{path}: altered since the pipeline was written; fit it again or restore the file.")


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def pipeline_digest(folder: Path) -> str:
    """One digest for the whole pipeline: that of its manifest."""
    return digest(folder / MANIFEST)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
