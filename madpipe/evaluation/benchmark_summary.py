"""A benchmark's cells put together: means and worst cases over seeds and tasks, controls, false positives, costs.

`cells` are documents of fitted pipelines, each with the `controls` of the same task, seed and trusted rows, if any.
Which control is the best is chosen with the labels, for its mean AUROC: that flatters controls, never a pipeline.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from madpipe.evaluation.comparison import Result, over_tasks
from madpipe.evaluation.intervals import mean_interval
from madpipe.evaluation.metrics import NOMINAL_RATES
from madpipe.evaluation.task_metrics import ALL, LIKE_TRUSTED
from madpipe.evaluation.validity import holm, pooled_counts

Cell = Mapping[str, Any]
Detector = Callable[[Cell], Mapping[str, Any]]
SHOWN = ("auroc", "average_precision", "tpr_at_1", "tpr_at_5", "recall_at_nominal_1")
UNION, OFFLINE = "union", "offline"
TOGETHER_OR_OFFLINE = (UNION, OFFLINE)
KINDS = {  # a control's patterns -> the kind it is of
    "trusted_copy": "trusted copy",
    "student": "student",
    "activations": "activations",
    "gram_matrices": "activations",
    "dictionary_latents": "activations",
    "inputs": "input",
    "strip": "input",
    "outputs": "output",
    UNION: UNION,
}


def summarise(cells: Sequence[Cell]) -> dict[str, Any]:
    """Plain values: `tasks` (a row for each task and pipeline), `overall`, `false_positives`, `wins`."""
    return {
        "tasks": [task_row(group) for group in by_task(cells)],
        "overall": [row for pipeline in pipelines_of(cells) for row in overall_rows(cells, pipeline)],
        "false_positives": false_positive_rows(cells),
        "wins": win_rows(cells),
    }


def pipelines_of(cells: Iterable[Cell]) -> list[str]:
    return list(dict.fromkeys(cell["pipeline"] for cell in cells))


def by_task(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The seeds of each task and pipeline, in the order of the suite."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["task"], cell["pipeline"]), []).append(cell)
    return list(groups.values())


def task_row(group: Sequence[Cell]) -> dict[str, Any]:
    """One task and pipeline over its seeds."""
    row: dict[str, Any] = {
        "task": group[0]["task"],
        "pipeline": group[0]["pipeline"],
        "seeds": [cell["seed"] for cell in group],
        "default": spread(group, lambda cell: cell["default"]),
        "members": {name: spread(group, _member(name)) for name in group[0]["members"]},
        "controls": best_controls(group),
        "subsets": subset_rates(group),
        "cost": {name: _mean(cell["cost"][name] for cell in group) for name in group[0]["cost"]},
    }
    if all("agree" in cell["default"] for cell in group):
        row["agree"] = {
            "rows": sum(cell["default"]["agree"]["rows"] for cell in group),
            "default": spread(group, lambda cell: cell["default"]["agree"]),
            "members": {name: spread(group, _member(name, "agree")) for name in group[0]["members"]},
            "controls": best_controls(group, "agree"),
        }
    return row


def spread(group: Sequence[Cell], of: Detector) -> dict[str, Any]:
    """Mean of each metric over seeds; of AUROC its range too, and a bootstrap interval of the mean.

    `interval_over` is "seeds" where there are enough of them, "rows" (of the test data) where there is one.
    """
    metrics = [of(cell) for cell in group]
    row: dict[str, Any] = {name: _mean(m[name] for m in metrics) for name in SHOWN}
    values = [m["auroc"] for m in metrics]
    row |= {"values": values, "tpr_at_1_values": [m["tpr_at_1"] for m in metrics]}
    row |= {"worst": min(values), "best": max(values), "worst_tpr_at_1": min(row["tpr_at_1_values"])}
    over_rows = metrics[0].get("auroc_interval") if len(group) == 1 else None
    interval = mean_interval([values])
    over = "seeds" if interval else "rows" if over_rows else None
    return row | {"interval": interval or over_rows, "interval_over": over}


def best_controls(group: Sequence[Cell], part: str | None = None) -> dict[str, Any]:
    """Of each kind, and among all that stand alone (`best`), the control of the highest mean AUROC.

    part: "agree" for the metrics on agree rows.
    """
    if not all("controls" in cell for cell in group):
        return {}
    rows: list[dict[str, Any]] = [
        spread(group, _control(name, part)) | {"name": name, "kind": kind_of(metrics), "passes": metrics["passes"]}
        for name, metrics in group[0]["controls"].items()
        if all(name in cell["controls"] for cell in group)
    ]
    chosen = {kind: _best(row for row in rows if row["kind"] == kind) for kind in {row["kind"]: None for row in rows}}
    alone = [row for row in rows if row["kind"] not in TOGETHER_OR_OFFLINE]
    return chosen | ({"best": _best(alone)} if alone else {})


def kind_of(control: Mapping[str, Any]) -> str:
    return OFFLINE if control["offline"] else KINDS.get(control["patterns"], control["patterns"])


def overall_rows(cells: Sequence[Cell], pipeline: str) -> list[dict[str, Any]]:
    """Mean and worst task of the pipeline, its members, and the best single controls on the same tasks."""
    own = [cell for cell in cells if cell["pipeline"] == pipeline]
    kinds = {n: kind_of(c) for cell in own for n, c in cell.get("controls", {}).items()}
    rows: list[dict[str, Any]] = [dict(row) for row in over_tasks(_results(own))]
    for row in rows:
        row["kind"] = kinds[row["detector"]] if row["role"] == "control" else row["role"]
    most = max(row["tasks"] for row in rows)
    everywhere = [row for row in rows if row["role"] == "control" and row["tasks"] == most]
    alone = [row for row in everywhere if row["kind"] not in TOGETHER_OR_OFFLINE]
    groups = {
        "best activation detector": [row for row in alone if row["kind"] == "activations"],
        "best single control": alone,
        "union of controls": [row for row in everywhere if row["kind"] == UNION],
        "best offline control": [row for row in everywhere if row["kind"] == OFFLINE],
    }
    kept = [row | {"what": row["role"]} for row in rows if row["role"] != "control"]
    kept += [_best(found, "mean") | {"what": what} for what, found in groups.items() if found]
    return [{"pipeline": pipeline, **row, "interval": _overall_interval(own, row)} for row in kept]


def _overall_interval(cells: Sequence[Cell], row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Over the seeds of every task."""
    tasks: dict[str, list[float]] = {}
    for result in _results(cells):
        if (result.name, result.role) == (row["detector"], row["role"]):
            tasks.setdefault(result.task, []).append(result.metrics["auroc"])
    return mean_interval(list(tasks.values()))


def _results(cells: Iterable[Cell]) -> list[Result]:
    results = []
    for cell in cells:
        where = {"task": cell["task"], "seed": cell["seed"]}
        results.append(Result(name="default", role="default", metrics={"auroc": cell["default"]["auroc"]}, **where))
        for role, found in (("member", cell["members"]), ("control", cell.get("controls", {}))):
            results += [Result(name=n, role=role, metrics={"auroc": m["auroc"]}, **where) for n, m in found.items()]  # type: ignore[arg-type]
    return results


def false_positive_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Rates at each nominal level pooled over seeds, of normal rows like trusted ones; p-values Holm-adjusted over all.

    Cross-fit pipelines promise twice the level and have neither interval nor p-value.
    """
    rows: list[dict[str, Any]] = []
    doubts: dict[str, float] = {}
    for group in (group for group in by_task(cells) if _normal_rows(group)):
        for level, alpha in NOMINAL_RATES.items():
            row = {"task": group[0]["task"], "pipeline": group[0]["pipeline"], "nominal": alpha}
            pooled = _pooled(group, level, alpha)
            row |= {"rows": pooled.test_size, "realised": pooled.realised, "crossed": _crossed(group)}
            if not _crossed(group):
                row["interval"] = pooled.interval
                doubts[str(len(rows))] = pooled.two_sided_p_value
            rows.append(row)
    for place, p in holm(doubts).items():
        rows[int(place)]["p_holm"] = p
    return rows


def _crossed(group: Sequence[Cell]) -> bool:
    return any(cell["crossed"] for cell in group)


def _normal_rows(group: Sequence[Cell]) -> int:
    """How many normal test rows are like trusted ones; where none is, p-values promise nothing."""
    counts = [cell["default"]["false_positives"] for cell in group]
    return sum(count.get(LIKE_TRUSTED, count[ALL])["rows"] for count in counts)


def _pooled(group: Sequence[Cell], level: str, alpha: float) -> Any:
    counts = [cell["default"]["false_positives"] for cell in group]
    chosen = [count.get(LIKE_TRUSTED, count[ALL]) for count in counts]
    sizes = [cell["calibration_size"] for cell in group]
    return pooled_counts([c[level] for c in chosen], [c["rows"] for c in chosen], sizes, alpha)


def subset_rates(group: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Share of each kind of normal row at or below each nominal level, pooled over seeds."""
    rates: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(kind for cell in group for kind in cell["default"]["false_positives"]):
        found = [c["default"]["false_positives"][kind] for c in group if kind in c["default"]["false_positives"]]
        total = sum(count["rows"] for count in found)
        if not total:
            continue
        rates[kind] = {"rows": total} | {k: sum(count[k] for count in found) / total for k in NOMINAL_RATES}
    return rates


def win_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of each pipeline and control: on how many cells the pipeline's AUROC is higher, equal, lower."""
    rows = []
    for pipeline in pipelines_of(cells):
        own = [cell for cell in cells if cell["pipeline"] == pipeline and "controls" in cell]
        for name in dict.fromkeys(name for cell in own for name in cell["controls"]):
            pairs = [(c["default"]["auroc"], c["controls"][name]["auroc"]) for c in own if name in c["controls"]]
            kind = next(kind_of(cell["controls"][name]) for cell in own if name in cell["controls"])
            counts = {"wins": sum(a > b for a, b in pairs), "ties": sum(a == b for a, b in pairs)}
            losses = len(pairs) - counts["wins"] - counts["ties"]
            rows.append({"pipeline": pipeline, "control": name, "kind": kind, **counts, "losses": losses})
    return rows


def _best(rows: Iterable[dict[str, Any]], key: str = "auroc") -> dict[str, Any]:
    return max(rows, key=lambda row: float(row[key]))


def _control(name: str, part: str | None) -> Detector:
    return lambda cell: cell["controls"][name][part] if part else cell["controls"][name]


def _member(name: str, part: str | None = None) -> Detector:
    return lambda cell: cell["members"][name][part] if part else cell["members"][name]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
