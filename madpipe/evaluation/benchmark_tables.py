"""A benchmark's summary as titled tables, the same for the terminal, Markdown and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madpipe.evaluation.benchmark_summary import UNION
from madpipe.evaluation.comparison import Row, markdown_table
from madpipe.evaluation.metrics import NOMINAL_RATES

SINGLE = ("trusted copy", "student", "activations", "input", "output")
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """rows: column -> cell, the same columns in every row; words or numbers."""

    title: str
    note: str
    rows: Sequence[Row]


def tables(summary: Summary) -> list[Table]:
    """Those that have rows; the first is the main one."""
    whole = [
        Table("Detection", DETECTION_NOTE, detection_rows(summary)),
        Table("Overall", OVERALL_NOTE, overall_rows(summary)),
        Table("Spread over seeds", SPREAD_NOTE, spread_rows(summary)),
        Table("Members", "AUROC / TPR at 1 % of each member by itself, means over seeds.", member_rows(summary)),
        Table("Same output, other mechanism", AGREE_NOTE, agree_rows(summary)),
        Table("Offline controls", OFFLINE_NOTE, offline_rows(summary)),
        Table("False positives", FALSE_POSITIVE_NOTE, false_positive_rows(summary)),
        Table("False positives by kind of normal input", SUBSET_NOTE, subset_rows(summary)),
        Table("Wins and losses", "Cells on which the pipeline's AUROC is higher, equal or lower.", win_rows(summary)),
        Table("Cost", COST_NOTE, cost_rows(summary)),
    ]
    return [table for table in whole if table.rows]


DETECTION_NOTE = (
    "AUROC / TPR at 1 % false positives, means over seeds; worst: that of the worst seed. Recall: share of anomalies "
    "with p <= 1 %. Of each kind of control that of the highest mean AUROC is shown, chosen with the labels."
)
OVERALL_NOTE = (
    "AUROC: mean and worst of the tasks' means over seeds. The 95 % interval is a bootstrap over seeds within each "
    "task. Single controls are the ones of the highest mean, chosen with the labels."
)
SPREAD_NOTE = (
    "AUROC of the default score. The 95 % bootstrap interval is over seeds where there are three or more, over test "
    "rows where there is one."
)
AGREE_NOTE = (
    "Positives are inputs on which the anomalous mechanism runs and the output is what it would be anyway: AUROC / TPR "
    "at 1 %, means over seeds; best: the single control of the highest mean AUROC."
)
OFFLINE_NOTE = "Controls that also learn from the task's unlabelled mix: AUROC / TPR at 1 %, the best of them."
FALSE_POSITIVE_NOTE = (
    "Share of normal test inputs like trusted ones with p at or below the nominal rate, pooled over seeds, beside the "
    "95 % beta-binomial interval of honest p-values, and two-sided p-values, Holm-adjusted over the table. Cross-fit "
    "pipelines (below 200 trusted rows) promise twice the nominal rate only. Seeds of digits draw from one set of "
    "images, so that their rates are not independent, as interval and p-value take them to be."
)
SUBSET_NOTE = "Share of each kind of normal test input with p <= 1 % and p <= 5 %, pooled over seeds."
COST_NOTE = (
    "Evaluations: how often scoring runs the network, or a form of it, for each input. Wall ratio: scoring over the "
    "plain float32 forward pass. Union: forward passes of all controls together. Seconds: of the fit, on one thread."
)


def detection_rows(summary: Summary) -> list[Row]:
    rows: list[Row] = []
    for row in summary["tasks"]:
        default, controls = row["default"], row["controls"]
        kinds = [kind for kind in (*SINGLE, UNION) if any(kind in other["controls"] for other in summary["tasks"])]
        rows.append(
            _place(row)
            | {"seeds": len(row["seeds"]), "madpipe": pair(default)}
            | {"worst": f"{default['worst']:.3f} / {default['worst_tpr_at_1']:.2f}"}
            | {"recall p<=1%": f"{default['recall_at_nominal_1']:.2f}"}
            | {kind: pair(controls[kind]) if kind in controls else None for kind in kinds}
        )
    return rows


def overall_rows(summary: Summary) -> list[Row]:
    return [
        {
            "pipeline": row["pipeline"],
            "detector": "pipeline" if row["what"] == "default" else f"{row['what']}: {row['detector']}",
            "tasks": row["tasks"],
            "mean AUROC": row["mean"],
            "95 % interval": _interval(row["interval"]),
            "worst AUROC": row["worst"],
            "worst task": row["worst_task"],
        }
        for row in summary["overall"]
    ]


def spread_rows(summary: Summary) -> list[Row]:
    return [
        _place(row)
        | {"mean": row["default"]["auroc"], "min": row["default"]["worst"], "max": row["default"]["best"]}
        | {"95 % interval": _interval(row["default"]["interval"]), "over": row["default"]["interval_over"]}
        for row in summary["tasks"]
    ]


def member_rows(summary: Summary) -> list[Row]:
    return [
        _place(row) | {"member": name, "AUROC / TPR": pair(member)} | {"recall p<=1%": member["recall_at_nominal_1"]}
        for row in summary["tasks"]
        for name, member in row["members"].items()
    ]


def agree_rows(summary: Summary) -> list[Row]:
    rows: list[Row] = []
    for row in summary["tasks"]:
        if "agree" in row:
            agree = row["agree"]
            best, union = agree["controls"].get("best"), agree["controls"].get(UNION)
            rows.append(
                _place(row)
                | {"rows": agree["rows"], "madpipe": pair(agree["default"])}
                | {"recall p<=1%": agree["default"]["recall_at_nominal_1"]}
                | {"best": best and f"{pair(best)} {best['name']}", "union": union and pair(union)}
            )
    return rows


def offline_rows(summary: Summary) -> list[Row]:
    return [
        _place(row) | {"control": row["controls"]["offline"]["name"], "AUROC / TPR": pair(row["controls"]["offline"])}
        for row in summary["tasks"]
        if "offline" in row["controls"]
    ]


def false_positive_rows(summary: Summary) -> list[Row]:
    return [
        _place(row)
        | {"rows": row["rows"], "nominal": f"{row['nominal']:.0%}", "realised": f"{row['realised']:.2%}"}
        | {"95 % interval": "-".join(f"{bound:.2%}" for bound in row["interval"]) if "interval" in row else "cross-fit"}
        | {"p (Holm)": row.get("p_holm")}
        for row in summary["false_positives"]
    ]


def subset_rows(summary: Summary) -> list[Row]:
    return [
        _place(row)
        | {"normal inputs": kind, "rows": rates["rows"]}
        | {f"p<={level}%": f"{rates[level]:.2%}" for level in NOMINAL_RATES}
        for row in summary["tasks"]
        if len(row["subsets"]) > 1
        for kind, rates in row["subsets"].items()
    ]


def win_rows(summary: Summary) -> list[Row]:
    return [{key: row[key] for key in ("pipeline", "control", "wins", "ties", "losses")} for row in summary["wins"]]


def cost_rows(summary: Summary) -> list[Row]:
    rows: list[Row] = []
    for row in summary["tasks"]:
        cost, union = row["cost"], row["controls"].get(UNION)
        rows.append(
            _place(row)
            | {"evaluations": f"{cost['evaluations']:g}", "wall ratio": f"{cost['wall_ratio']:.1f}"}
            | {"union": f"{union['passes']:g}" if union else None}
            | {"fit, wall s": f"{cost['fit_seconds']:.1f}", "processor s": f"{cost['fit_process_seconds']:.1f}"}
        )
    return rows


def markdown(title: str, tables: Sequence[Table]) -> str:
    parts = [f"## {table.title}\n\n{table.note}\n\n{markdown_table(table.rows)}" for table in tables]
    return f"# {title}\n\n" + "\n".join(parts)


def pair(row: Mapping[str, Any]) -> str:
    """AUROC / TPR at 1 %."""
    return f"{row['auroc']:.3f} / {row['tpr_at_1']:.2f}"


def _place(row: Mapping[str, Any]) -> dict[str, object]:
    return {"task": row["task"], "pipeline": row["pipeline"]}


def _interval(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
