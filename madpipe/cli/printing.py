"""What commands print: talk on stderr, JSON documents and plain tables on stdout."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click


def talk(line: str) -> None:
    """One line for the person; never data."""
    click.echo(visible(line), err=True)


def visible(text: str) -> str:
    r"""`text` with every character that a terminal would obey written out, `\x1b` for escape; lines stay lines.

    Names of files, columns and layers come from strangers.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def tell_unsent(kept: Path | None, result: Path) -> None:
    """Where writes wait that the tracking store did not take, and how to send them."""
    if kept is not None:
        later = command_line("madpipe", "sync", near(result))
        talk(f"The tracking store is away: what was to be logged is kept in {near(kept)}. Send it later: {later}")


def print_json(document: Mapping[str, Any]) -> None:
    """One document on stdout; NaN and infinities, which JSON lacks, become null."""
    click.echo(json.dumps(_json_value(document), indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, err: bool = False) -> None:
    """Aligned columns on stdout, or on stderr: the first `left` ones to the left, the others to the right."""
    header, *rows = [[visible(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        padded = zip(row, widths, strict=True)
        cells = [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(padded)]
        click.echo("  ".join(cells).rstrip(), err=err)


def counted(number: int, noun: str) -> str:
    """`counted(2000, "input")` is "2,000 inputs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`duration(75)` is "1 min 15 s"; below ten seconds with one decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def near(path: Path) -> Path:
    """`path` as seen from the current folder, where it lies inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


def command_line(*words: object) -> str:
    """Words as one line that can be pasted into a shell."""
    return shlex.join(str(word) for word in words)


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars, without importing numpy
        return _json_value(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
