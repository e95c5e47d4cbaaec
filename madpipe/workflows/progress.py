"""Progress of long work: a bar on stderr when it is a terminal, nothing otherwise."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

FoldProgress = Callable[[int, int, Mapping[str, float]], None]


@contextmanager
def training_progress(total_steps: int, folds: int, wanted: bool) -> Iterator[FoldProgress]:
    """Tells (fold, steps done, loss terms) of a training to the person at the terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda fold, step, terms: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} steps"))
    loss, remaining = TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn()
    with Progress(*columns, loss, remaining, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Decomposing", total=total_steps * folds, loss="-")

        def advance(fold: int, step: int, terms: Mapping[str, float]) -> None:
            bar.update(task, completed=fold * total_steps + step, loss=f"{terms.get('total', float('nan')):.3g}")

        yield advance


@contextmanager
def row_progress(total_rows: int | None, description: str) -> Iterator[Callable[[int], None]]:
    """Tells rows done so far; for streams of known or unknown length."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total_rows)
        yield lambda done: bar.update(task, completed=done)
