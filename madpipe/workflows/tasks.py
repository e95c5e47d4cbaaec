"""The benchmark tasks: their names, and one of them written out as if it were a user's own model and data."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from madpipe.errors import MissingFileError
from madpipe.tasks.build import build_task, parse_task_name, task_names
from madpipe.tasks.export import export_task as write_task_folder


def list_tasks() -> list[tuple[str, str]]:
    """(name, one line about it) of every listed task."""
    return list(task_names().items())


def export_task(name: str, folder: Path, *, overwrite: bool, report: Callable[[str], None]) -> list[str]:
    """Build the task and write it to `folder`; the names of the files, which are there all together or not at all.

    UnknownNameError for an unknown task; MissingFileError when something is in the way. `overwrite` replaces the files
    of an earlier export one by one, and leaves alone whatever else lies in the folder (a pipeline fitted there).
    """
    config = parse_task_name(name)
    if folder.exists() and not folder.is_dir():
        raise MissingFileError(f"'{folder}' is a file. Give the path of a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise MissingFileError(
            f"'{folder}' is not empty. Give another folder, or --overwrite to replace the task's files."
        )
    report(f"Building {name} (a first build trains the network; later ones read it from the cache).")
    task = build_task(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.", suffix=".partial", dir=folder.parent) as beside:
        written = Path(beside) / folder.name
        write_task_folder(task, written)
        files = sorted(path.name for path in written.iterdir())
        if not folder.exists():
            written.rename(folder)
        else:
            for file in files:
                os.replace(written / file, folder / file)
    return files
