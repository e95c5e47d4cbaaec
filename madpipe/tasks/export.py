"""Writes a task as a user would bring their own model: model file, weights, data and a config."""

import inspect
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.torch import save_file

from madpipe.errors import MissingFileError
from madpipe.tasks.task import Task

MODEL, WEIGHTS, TRUSTED, TEST, CONFIG = "model.py", "weights.safetensors", "trusted.npz", "test.npz", "config.yaml"


def export_task(task: Task, folder: Path) -> None:
    """Writes model.py, weights.safetensors, trusted.npz (x), test.npz (x, is_anomalous, each subset) and config.yaml.

    model.py is the source of the target's factory module, which imports torch alone. Where the task has agree rows or
    an unlabelled mix, agree.npz (x, its subsets) and untrusted.npz (x) are written too. The folder is written beside
    and renamed; one that exists is refused.
    """
    if folder.exists():
        raise MissingFileError(f"{folder} is there already; name a new folder or remove it.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_files(task, partial)
    partial.rename(folder)


def write_files(task: Task, folder: Path) -> None:
    place = task.target.factory.rpartition(":")[0]
    (folder / MODEL).write_text(inspect.getsource(import_module(place)))
    save_file({name: value.contiguous() for name, value in task.target.module.state_dict().items()}, folder / WEIGHTS)
    tables: dict[str, dict[str, Any]] = {
        TRUSTED: {"x": task.trusted},
        TEST: {"x": task.test, "is_anomalous": task.is_anomalous, **task.subsets},
        "agree.npz": {"x": task.agree, **task.agree_subsets},
        "untrusted.npz": {"x": task.untrusted},
    }
    for name, columns in tables.items():
        if columns["x"] is not None:
            np.savez(folder / name, **columns)
    (folder / CONFIG).write_text(yaml.safe_dump(own_model_config(task), sort_keys=False))


def own_model_config(task: Task) -> dict[str, Any]:
    """The config of a user's own model, its paths relative to the exported folder."""
    attribute = task.target.factory.rpartition(":")[2]
    return {
        "target": {
            "factory": f"{MODEL}:{attribute}",
            "kwargs": task.target.kwargs,
            "weights": WEIGHTS,
            "output": task.target.output,
            "sites": list(task.sites),
        },
        "data": {"trusted": TRUSTED, "key": "x"},
        "decomposition": {"method": "spd"},
        "tracking": {"experiment": task.name},
    }
