"""The default pipeline beside its members, the controls and the field's baselines, as text and Markdown tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Role = Literal["default", "member", "control", "baseline"]
ROLES: tuple[Role, ...] = ("default", "member", "control", "baseline")
Row = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one detector did on one task with one seed. metrics: name -> number, such as auroc and tpr_at_1."""

    task: str
    name: str
    role: Role
    seed: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def over_seeds(results: Iterable[Result], metrics: Sequence[str]) -> list[Row]:
    """One row per task and detector: each metric's mean over seeds, and its deviation where there are several."""
    rows: list[Row] = []
    for (task, name, role), group in _grouped(results, lambda r: (r.task, r.name, r.role)):
        row: dict[str, object] = {"task": task, "detector": name, "role": role, "seeds": len({r.seed for r in group})}
        for metric in metrics:
            values = [r.metrics[metric] for r in group if metric in r.metrics]
            row[metric] = float(np.mean(values)) if values else None
            if len(values) > 1:
                row[f"{metric}_sd"] = float(np.std(values, ddof=1))
        rows.append(row)
    return rows


def over_tasks(results: Iterable[Result], metric: str = "auroc") -> list[Row]:
    """One row per detector: mean and worst of its tasks' seed means; within a role the best worst task comes first.

    Detectors that did not run on every task are listed with the number of tasks they ran on: their worst may be
    flattered.
    """
    rows: list[dict[str, object]] = []
    for (name, role), group in _grouped(results, lambda r: (r.name, r.role)):
        tasks = {
            task: float(np.mean([r.metrics[metric] for r in part]))
            for (task,), part in _grouped((r for r in group if metric in r.metrics), lambda r: (r.task,))
        }
        if tasks:
            worst = min(tasks, key=lambda task: tasks[task])
            mean = float(np.mean(list(tasks.values())))
            row = {"detector": name, "role": role, "tasks": len(tasks), "mean": mean}
            rows.append({**row, "worst": tasks[worst], "worst_task": worst})
    rows.sort(key=lambda row: (ROLES.index(row["role"]), -row["worst"]))  # type: ignore[operator]
    return list(rows)


def text_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Aligned plain text: words to the left, numbers to the right with three decimals, nothing for what is missing."""
    names, cells = _cells(rows, columns)
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    right = [_is_number_column(rows, name) for name in names]

    def line(values: Sequence[str]) -> str:
        parts = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(names), "  ".join("-" * width for width in widths), *map(line, cells)]) + "\n"


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """The same table for a page; a | in a cell is escaped."""
    names, cells = _cells(rows, columns)
    rule = ["---:" if _is_number_column(rows, name) else "---" for name in names]

    def line(values: Sequence[str]) -> str:
        return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"

    return "\n".join([line(names), line(rule), *map(line, cells)]) + "\n"


def _cells(rows: Sequence[Row], columns: Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    names = list(columns) if columns else list(dict.fromkeys(name for row in rows for name in row))
    return names, [[_cell(row.get(name)) for name in names] for row in rows]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return f"[{', '.join(_cell(part) for part in value)}]"
    return f"{value:.3f}" if isinstance(value, float) else " ".join(str(value).split())


def _is_number_column(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows if row.get(name) is not None]
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _grouped(
    results: Iterable[Result], key: Callable[[Result], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[Result]]]:
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.items())
