"""A target as a folder, from which it can be built again: its factory's file (where it is one) and its weights."""

import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from madpipe.components.checkpoint import save_tensors
from madpipe.errors import DamagedFileError
from madpipe.targets.load import Target, load_target

WEIGHTS = "weights.safetensors"
FACTORY_FILE = "model.py"


def write_target(folder: Path, target: Target) -> dict[str, Any]:
    """Copy the factory's file, write weights as safetensors; how to build the target again."""
    folder.mkdir()
    save_tensors(target.module.state_dict(), folder / WEIGHTS)
    factory, place = target.factory, target.factory.rpartition(":")
    if target.source is not None:
        shutil.copyfile(target.source, folder / FACTORY_FILE)
        factory = f"{FACTORY_FILE}:{place[2]}"
    package = place[0].split(".")[0]
    return {
        "factory": factory,
        "kwargs": target.kwargs,
        "output": target.output,
        "weights_digest": target.weights_digest,
        "package": None if target.source else {package: _version(package)},
    }


def load_written_target(folder: Path, facts: Mapping[str, Any]) -> Target:
    """The target that `write_target` wrote to `folder` and described by `facts`. Its factory is executed.

    DamagedFileError where that would be a file other than the copy in `folder`, which digests cover.
    """
    file = facts["factory"].rpartition(":")[0]
    if file.endswith(".py") and file != FACTORY_FILE:
        raise DamagedFileError(f"{folder}: names the factory {facts['factory']}, which is no file of its own.")
    return load_target(facts["factory"], facts["kwargs"], Path(WEIGHTS), facts["output"], folder)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
