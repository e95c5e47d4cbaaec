"""Tensors and plain values on disk: safetensors and JSON, read back without executing anything."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from madpipe.errors import DamagedFileError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors; they are detached and made contiguous on the CPU, shared memory is duplicated.

    OSError where the disk is full or the folder cannot be written to.
    """
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))  # it carries the system's error as text alone
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors; DamagedFileError when the file is not whole."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(f"{path}: not a whole safetensors file ({type(error).__name__}).") from None
    return tensors


def load_matching(module: torch.nn.Module, path: Path, ignore: str) -> None:
    """Load `path` into `module`, whose entries starting with `ignore` are not in the file.

    DamagedFileError names the first entry that is missing, unexpected or of another shape.
    """
    tensors = load_tensors(path)
    expected = {key: value.shape for key, value in module.state_dict().items() if not key.startswith(ignore)}
    if {key: value.shape for key, value in tensors.items()} != expected:
        wrong = sorted(set(expected) ^ set(tensors)) or [k for k in expected if tensors[k].shape != expected[k]]
        raise DamagedFileError(f"{path}: '{wrong[0]}' does not fit the decomposition it belongs to.")
    module.load_state_dict(tensors, strict=False)


def save_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a JSON object with sorted keys, so that the same value gives the same bytes."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; DamagedFileError when it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise DamagedFileError(f"{path}: not a readable JSON file.") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path}: holds no JSON object.")
    return value
