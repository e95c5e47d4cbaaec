"""A benchmark as one page: the figures of every task, then the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from madpipe.evaluation.benchmark_summary import UNION
from madpipe.evaluation.benchmark_tables import Table
from madpipe.reporting.drawing import PALETTE, plain
from madpipe.reporting.page import INK, drawing, page, paragraph, section, table

COMPARED = ("trusted copy", "student", "activations", UNION)
MARKERS = ("s", "D", "^", "v")
PIPELINE_MARKERS = ("o", "P", "X", "p", "h")
Series = Mapping[str, Mapping[str, Sequence[float]]]  # what -> task -> a value of each seed


def benchmark_page(title: str, said: str, summary: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The whole HTML; `said` is a line below the title."""
    figures = [
        drawing(
            dot_plot(values_of(summary, key), name),
            f"{name}: a dot for each seed. Of each kind of control, that of the task's highest mean AUROC.",
            f"{name} of every task",
        )
        for key, name in (("values", "AUROC"), ("tpr_at_1_values", "TPR at 1 % false positives"))
    ]
    parts = [section(each.title, paragraph(each.note), table(each.rows)) for each in tables]
    return page(title, [paragraph(said), *figures, *parts])


def values_of(summary: Mapping[str, Any], key: str) -> Series:
    """Pipelines first, then the controls that stand for their kind; those of the first pipeline of a task."""
    series: dict[str, dict[str, Sequence[float]]] = {}
    for row in summary["tasks"]:
        series.setdefault(row["pipeline"], {})[row["task"]] = row["default"][key]
    for row in summary["tasks"]:
        for kind in COMPARED:
            if kind in row["controls"]:
                series.setdefault(_named(kind), {}).setdefault(row["task"], row["controls"][kind][key])
    return series


def dot_plot(series: Series, label: str) -> Figure:
    """A line for each task, on it the values of every series, each at a height of its own."""
    tasks = list(dict.fromkeys(task for values in series.values() for task in values))
    figure = Figure(figsize=(10, 1.4 + 0.45 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    controls = [_named(kind) for kind in COMPARED]
    for k, (name, values) in enumerate(series.items()):
        own = name not in controls
        marker = PIPELINE_MARKERS[k % len(PIPELINE_MARKERS)] if own else MARKERS[controls.index(name)]
        colour = INK if k == 0 else PALETTE[(k - 1) % len(PALETTE)]
        height = 0.3 - 0.6 * k / max(len(series) - 1, 1)
        points = [(x, tasks.index(task) - height) for task, xs in values.items() for x in xs]
        axes.plot(
            *zip(*points, strict=True), marker, color=colour, markersize=5.5, alpha=0.85, label=plain(name), gid=None
        )
    axes.set_yticks(range(len(tasks)), [plain(task) for task in tasks], color=INK)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel(label, color=INK)
    axes.tick_params(colors=INK)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, labelcolor=INK, frameon=False)
    return figure


def _named(kind: str) -> str:
    return {UNION: "union of controls", "activations": "best activation detector"}.get(kind, kind)
