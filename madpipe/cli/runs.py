"""`madpipe runs`: the pipelines of an MLflow store, with their figures."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from madpipe.cli.options import examples, json_option, tracking_uri_option
from madpipe.cli.printing import command_line, counted, near, print_json, print_table, talk

EXAMPLES = examples(
    "madpipe runs",
    "madpipe runs --experiment digits --filter champion --json",
    "madpipe runs --filter spd --limit 5 --tracking-uri sqlite:////data/mlflow.db",
)
TEXTS = ["fitted", "name", "run", "data", "method", "version", "folder"]
NUMBERS = ["AUROC", "TPR@1%", "FPR p<=1%", "calibration"]


@click.command(epilog=EXAMPLES)
@click.option("--experiment", metavar="NAME", help="Only pipelines of this experiment.")
@click.option(
    "--filter",
    "words",
    metavar="TEXT",
    multiple=True,
    help="Only rows in which TEXT occurs: in name, data, method, experiment, version or alias. May be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest so many.")
@tracking_uri_option
@json_option
def runs(experiment: str | None, words: tuple[str, ...], limit: int, tracking_uri: str | None, as_json: bool) -> None:
    """List fitted pipelines and what they are worth.

    Newest first. AUROC, TPR and FPR are those of the newest 'madpipe evaluate --log' on that pipeline.
    """
    from madpipe.workflows.runs import list_runs

    rows = list_runs(experiment=experiment, words=words, limit=limit, tracking_uri=tracking_uri)
    if as_json:
        print_json({"pipelines": rows})
    elif rows:
        print_table([*TEXTS, *NUMBERS], [_cells(row) for row in rows], left=len(TEXTS))
    more = f" (the newest {limit}; more with --limit)" if len(rows) == limit else ""
    talk(f"{counted(len(rows), 'pipeline')}{more}. Next: {_following(rows)}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    figures = row["evaluation"] or {}
    shown = [f"{figures[name]:.3f}" if name in figures else "-" for name in ("auroc", "tpr_at_1", "fpr_at_nominal_1")]
    date = datetime.fromisoformat(row["date"]).astimezone().strftime("%Y-%m-%d %H:%M")
    folder = str(near(Path(row["folder"]))) if row["folder"] else "-"
    names = [date, row["name"], row["run_id"][:8], row["data"] or "-", row["method"] or "-"]
    return [*names, "; ".join(row["versions"]) or "-", folder, *shown, f"{row['calibration_size']:,}"]


def _following(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "madpipe fit logs one"
    if not any(row["evaluation"] for row in rows):
        folder = near(Path(rows[0]["folder"])) if rows[0]["folder"] else "DIR"
        return command_line("madpipe", "evaluate", "--pipeline", folder, "test.npz", "--log")
    return "madpipe ui shows the runs side by side"
