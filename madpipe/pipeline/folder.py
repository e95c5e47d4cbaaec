"""Folders with digests of every file, written whole or not at all, verified when read: pipelines and decompositions.

A pipeline holds (what a decomposition holds stands in decomposition_folder.py):

pipeline.json                       format version, versions, target, input shape, sha256 of every file, its own too
config.yaml                         the resolved config
target/                             the factory's file (where it is one) and weights.safetensors
folds/<k>/decomposition/            components.safetensors, statistics.safetensors, decomposition.json
folds/<k>/{extractors,detectors}/   what extractors learned; one skops file per member
folds/<k>/involvement.safetensors   the usual size of each part
ensemble/                           combiner.skops, calibration.npz
splits.npz                          indices of fit, validation and calibration rows, per fold
trusted/trusted.npz                 those rows, if data.keep_trusted; may be deleted
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import load_json, save_json
from madpipe.errors import DamagedFileError, MissingFileError

REPLACED = "replaced"  # the folder in the working folder to which an overwritten output is moved
STAGED = "staged"  # the folder in the working folder in which everything is written


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """needed: files that the manifest has to name. closed: folders in which a file that the manifest does not name
    could change results. optional: files under it may be absent. command: what makes such a folder. format: the
    version of its layout.
    """

    noun: str
    manifest: str
    closed: tuple[str, ...]
    optional: str
    command: str
    format: int
    needed: tuple[str, ...] = ()


PIPELINE = FolderKind(
    noun="pipeline",
    manifest="pipeline.json",
    closed=("target", "folds", "ensemble", "trusted"),
    needed=("config.yaml", "splits.npz"),
    optional="trusted/",
    command="fit",
    format=3,
)
DECOMPOSITION = FolderKind(
    noun="decomposition",
    manifest="manifest.json",
    closed=("target", "components"),
    optional="figures/",
    command="decompose",
    format=1,
)


def refuse_existing(output: Path, overwrite: bool, kind: FolderKind = PIPELINE) -> None:
    """MissingFileError (something is in the way) unless `output` is free, or a `kind` that may be overwritten."""
    if not output.exists():
        return
    if not overwrite:
        raise MissingFileError(f"{output} exists already; choose another -o, or give --overwrite.")
    if output.is_file() or (any(output.iterdir()) and not (output / kind.manifest).is_file()):
        raise MissingFileError(
            f"{output} exists and is no {kind.noun} folder, so --overwrite leaves it alone; choose another -o."
        )


def partial_folder(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """An empty folder inside `<output>.partial`. `publish` moves it to `output`; without that nothing appears there."""
    folder = partial_folder(output) / STAGED
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    yield folder


def publish(staged: Path, output: Path, *, keep_work: bool = False) -> None:
    """Move a sealed folder to `output`, replacing one that is there, and remove the working folder."""
    work = staged.parent
    if output.exists():
        shutil.rmtree(work / REPLACED, ignore_errors=True)
        os.replace(output, work / REPLACED)
    os.replace(staged, output)
    if not keep_work:
        shutil.rmtree(work, ignore_errors=True)


def seal(folder: Path, facts: Mapping[str, Any], kind: FolderKind = PIPELINE) -> None:
    """Write the manifest: `facts`, the format version, and a digest of every file there is."""
    files = {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != kind.manifest
    }
    write_manifest(folder, facts, files, kind)


def write_manifest(
    folder: Path, facts: Mapping[str, Any], files: Mapping[str, str], kind: FolderKind = PIPELINE
) -> None:
    manifest = {"format": kind.format, **facts, "files": dict(files)}
    save_json(manifest | {"digest": _manifest_digest(manifest)}, folder / kind.manifest)


def read_facts(folder: Path, kind: FolderKind = PIPELINE) -> dict[str, Any]:
    """What `seal` was given; unverified."""
    return {k: v for k, v in load_json(folder / kind.manifest).items() if k not in ("format", "files", "digest")}


def verify(folder: Path, kind: FolderKind = PIPELINE) -> dict[str, Any]:
    """The manifest, once every file named in it is there and unaltered, and no other where files are read from.

    MissingFileError where `folder` is no `kind`; DamagedFileError names the first file that is missing or altered.
    """
    path = folder / kind.manifest
    if not path.is_file():
        raise MissingFileError(
            f"{folder} is no {kind.noun} folder: it has no {kind.manifest}. "
            f"Make one with 'madpipe {kind.command} CONFIG -o {folder}'."
        )
    manifest = load_json(path)
    if manifest.get("format") != kind.format:
        raise DamagedFileError(
            f"{path}: format {manifest.get('format')}; this madpipe reads format {kind.format}. "
            f"Make it again with 'madpipe {kind.command}'."
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get("digest") != _manifest_digest(manifest):
        raise _altered(path, kind)
    for name in kind.needed:
        if name not in files:
            raise DamagedFileError(f"{path}: does not name {name}; {kind.command} it again or restore the file.")
    for name, expected in files.items():
        _verify_file(folder, name, expected, kind)
    _refuse_strangers(folder, files, kind)
    return manifest


def _verify_file(folder: Path, name: str, expected: str, kind: FolderKind) -> None:
    path = folder / name
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a link to itself
        raise DamagedFileError(f"{folder / kind.manifest}: names what can be no file ({name[:60]!r}).") from None
    if not inside:
        raise DamagedFileError(f"{folder / kind.manifest}: names a file outside the folder ({name}).")
    if not there:
        if name.startswith(kind.optional):
            return
        raise DamagedFileError(f"{path}: missing from the {kind.noun}; {kind.command} it again or restore the file.")
    if digest(path) != expected:
        raise _altered(path, kind)


def _refuse_strangers(folder: Path, files: Mapping[str, str], kind: FolderKind) -> None:
    for path in (path for part in kind.closed for path in sorted((folder / part).rglob("*"))):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise DamagedFileError(f"{path}: a link; a {kind.noun} holds files alone. Put the file in its place.")
        if path.is_file() and name not in files and "__pycache__" not in name.split("/"):
            raise DamagedFileError(f"{path}: not in the manifest, so it was not part of the {kind.noun}; remove it.")


def _altered(path: Path, kind: FolderKind) -> DamagedFileError:
    return DamagedFileError(
        f"{path}: altered since the {kind.noun} was written; {kind.command} it again or restore the file."
    )


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def folder_digest(folder: Path, kind: FolderKind = PIPELINE) -> str:
    """One digest for the whole: that of its manifest."""
    return digest(folder / kind.manifest)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
