"""Built tasks on disk: one folder each, safetensors and JSON, whole or absent, rebuilt when damaged."""

import hashlib
import json
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load, save

from madpipe.targets.load import Target, weights_digest
from madpipe.tasks.task import Task

FORMAT_VERSION = 4  # raise it with every change that moves a task's bits: older folders are then left unread
ARRAYS, FACTS = "task.safetensors", "task.json"


def cache_folder(label: str, config: dict[str, Any]) -> Path:
    """$MADPIPE_CACHE or ~/.cache/madpipe, then tasks/<label>-<digest of config, format version and torch version>."""
    root = Path(os.environ.get("MADPIPE_CACHE") or Path.home() / ".cache" / "madpipe")
    key = json.dumps([FORMAT_VERSION, torch.__version__, config], sort_keys=True)
    return root / "tasks" / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def write_task(task: Task, folder: Path) -> None:
    """Writes beside and renames; where another process was faster, its folder stays."""
    arrays = {f"weights.{name}": value.numpy() for name, value in task.target.module.state_dict().items()}
    arrays |= {f"subsets.{name}": mask for name, mask in task.subsets.items()}
    arrays |= {f"agree_subsets.{name}": mask for name, mask in task.agree_subsets.items()}
    for name in ("trusted", "untrusted", "test", "is_anomalous", "agree"):
        if (value := getattr(task, name)) is not None:
            arrays[name] = value
    content = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    facts = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "name": task.name,
        "output": task.target.output,
        "factory": task.target.factory,
        "kwargs": task.target.kwargs,
        "sites": list(task.sites),
        "mechanisms": task.mechanisms,
        "facts": task.facts,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent))
    (partial / ARRAYS).write_bytes(content)
    (partial / FACTS).write_text(json.dumps(facts, indent=1))
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise


def read_task(folder: Path) -> Task | None:
    """The task in `folder`; None where there is none, or where it is damaged (the folder is then removed)."""
    if not folder.is_dir():
        return None
    try:
        facts = json.loads((folder / FACTS).read_text())
        content = (folder / ARRAYS).read_bytes()
        whole = hashlib.sha256(content).hexdigest() == facts["sha256"]
        if whole:
            return restore(facts, load(content))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        pass  # damaged: a cache may be made again
    shutil.rmtree(folder, ignore_errors=True)
    return None


def restore(facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Task:
    """The task again; its target is built by its own factory, which is one of madpipe's."""
    place, _, attribute = facts["factory"].rpartition(":")
    module = getattr(import_module(place), attribute)(**facts["kwargs"])
    module.load_state_dict({name: torch.from_numpy(value) for name, value in under("weights.", arrays).items()})
    module.eval().requires_grad_(False)
    digest = weights_digest(module.state_dict())
    return Task(
        name=facts["name"],
        target=Target(module, facts["output"], facts["factory"], facts["kwargs"], None, digest),
        sites=tuple(facts["sites"]),
        trusted=arrays["trusted"],
        untrusted=arrays.get("untrusted"),
        test=arrays["test"],
        is_anomalous=arrays["is_anomalous"],
        subsets=under("subsets.", arrays),
        agree=arrays.get("agree"),
        agree_subsets=under("agree_subsets.", arrays),
        mechanisms=facts["mechanisms"],
        facts=facts["facts"],
    )


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
