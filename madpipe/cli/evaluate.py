"""`madpipe evaluate`: labelled inputs -> how well the pipeline separates, and whether its p-values keep their word."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from madpipe.cli.options import (
    FILE,
    examples,
    json_option,
    key_option,
    pipeline_option,
    tracking_uri_option,
    trust_code_option,
)
from madpipe.cli.printing import command_line, print_json, print_table, talk

EXAMPLES = examples(
    "madpipe evaluate --pipeline pipeline test.npz --label is_anomalous --log",
    "madpipe evaluate --pipeline pipeline test.npz --controls --trusted trusted.npz --figure evaluation.png",
    "madpipe evaluate --pipeline pipeline test.npz --controls --untrusted untrusted.npz --json",
)
COLUMNS = {
    "AUROC": "auroc",
    "AP": "average_precision",
    "TPR@1%": "tpr_at_1",
    "TPR@5%": "tpr_at_5",
    "FPR p<=1%": "fpr_at_nominal_1",
    "valid FPR": "fpr_at_nominal_1_interval",
    "recall p<=1%": "recall_at_nominal_1",
}


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.argument("labelled", type=FILE)
@click.option("--label", default="is_anomalous", show_default=True, help="Name of the true/false array or column.")
@key_option
@click.option("--controls", is_flag=True, help="Fit simple detectors on the trusted data and compare with them.")
@click.option("--trusted", type=FILE, help="Trusted rows for --controls; default: those kept in the pipeline.")
@click.option("--untrusted", type=FILE, help="Unlabelled rows for the --controls that learn from a mix (offline).")
@click.option("--figure", type=FILE, metavar="FILE.png", help="Draw score histograms and ROC curves.")
@click.option("--log", is_flag=True, help="Log the figures to MLflow too, where 'madpipe runs' finds them.")
@trust_code_option
@tracking_uri_option
@json_option
def evaluate(
    pipeline: str,
    labelled: Path,
    label: str,
    key: str | None,
    controls: bool,
    trusted: Path | None,
    untrusted: Path | None,
    figure: Path | None,
    log: bool,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Compare scores with labels, and with simple detectors.

    Labels judge; nothing is fitted or tuned on them.

    "valid FPR" is the central 95 % range of the false-positive rate that honest p-values show with this many
    calibration and test rows.
    """
    if figure is not None and figure.suffix.lower() != ".png":
        raise click.UsageError(f"--figure '{figure}': the name must end in .png.")
    from madpipe.workflows.evaluate import evaluate as evaluate_pipeline

    result = evaluate_pipeline(
        pipeline,
        labelled,
        label=label,
        controls=controls,
        trusted=trusted,
        untrusted=untrusted,
        key=key,
        figure=figure,
        log=log,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
        report=talk,
    )
    if as_json:
        print_json(result)
    else:
        print_table(["", *COLUMNS], list(table_rows(result)))
    drawn = f", drawn in {figure}" if figure else ""
    with_controls = command_line(
        "madpipe", "evaluate", "--pipeline", pipeline, labelled, "--label", label, "--controls"
    )
    following = "madpipe ui shows the runs side by side" if controls else with_controls
    talk(f"Evaluated {labelled}{drawn}. Next: {following}")


def table_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """One row for the default score, then members, controls and subsets, as far as there are any."""
    yield ["default", *_cells(result["default"])]
    for kind in ("members", "controls", "subsets"):
        for name, metrics in (result.get(kind) or {}).items():
            yield [f"{kind.removesuffix('s')} {name}", *_cells(metrics)]


def _cells(metrics: Mapping[str, Any]) -> list[str]:
    return [_cell(metrics.get(name)) for name in COLUMNS.values()]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return "-".join(f"{bound:.3f}" for bound in value)
    return f"{value:.3f}"
