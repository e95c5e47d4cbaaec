"""`madpipe compare`: two pipelines on the same inputs -> agreement, and where they differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from madpipe.cli.options import (
    FILE,
    complete_folder,
    examples,
    json_option,
    key_option,
    threads_option,
    tracking_uri_option,
    trust_code_option,
)
from madpipe.cli.printing import counted, print_json, print_table, talk

SUFFIXES = (".parquet", ".csv", ".jsonl")
EXAMPLES = examples(
    "madpipe compare pipeline other new.npz",
    "madpipe compare pipeline other test.npz --label is_anomalous -o both.parquet",
    "madpipe compare models:/digits@champion models:/digits@candidate --trust-code new.csv --json",
)
FIGURES = {
    "AUROC": "auroc",
    "TPR@1%": "tpr_at_1",
    "TPR@5%": "tpr_at_5",
    "FPR p<=1%": "fpr_at_nominal_1",
    "recall p<=1%": "recall_at_nominal_1",
}


@click.command(epilog=EXAMPLES)
@click.argument("first", metavar="A", shell_complete=complete_folder)
@click.argument("second", metavar="B", shell_complete=complete_folder)
@click.argument("inputs", type=FILE)
@click.option("--label", help="Name of a true/false array or column: says which of the two separates better.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Both flag an input when its p-value is at most this.",
)
@click.option("-o", "--output", type=FILE, help="Every row with both pipelines' results: .parquet, .csv or .jsonl.")
@key_option
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
def compare(
    first: str,
    second: str,
    inputs: Path,
    label: str | None,
    alpha: float,
    output: Path | None,
    key: str | None,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Show where two pipelines agree and differ.

    A and B are pipeline folders or models in MLflow. With --label, the difference in AUROC and TPR comes with the 95 %
    interval of a bootstrap over the inputs, paired: both pipelines see the same ones.
    """
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"-o '{output}': the name must end in {', '.join(SUFFIXES)}.")
    from madpipe.workflows.compare import compare as compare_pipelines

    result = compare_pipelines(
        first,
        second,
        inputs,
        label=label,
        alpha=alpha,
        key=key,
        output=output,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
    )
    if as_json:
        print_json(result)
    else:
        _print(result)
    alike = f"{100 * result['flags']['agreement']:.1f} % of {counted(result['rows'], 'input')} flagged alike"
    kept = f" -> {output}" if output else ""
    following = "read both rows of what differs" if output else "keep every row with -o both.parquet"
    talk(f"Compared A = {first} with B = {second}: {alike}{kept}. Next: {following}")


def _print(result: Mapping[str, Any]) -> None:
    flags = result["flags"]
    print_table(
        [f"flagged at p <= {result['alpha']:g}", "by B", "not by B"],
        [
            ["by A", f"{flags['both']:,}", f"{flags['only_first']:,}"],
            ["not by A", f"{flags['only_second']:,}", f"{flags['neither']:,}"],
        ],
    )
    correlation = result["rank_correlation"]
    click.echo(f"\nrank correlation of the anomaly scores (Spearman): {correlation:.3f}")
    if "separation" in result:
        click.echo()
        header = ["", "A", "B", "B - A", "95 % interval"]
        print_table(header, [[shown, *_cells(result["separation"][name])] for shown, name in FIGURES.items()])
    if result["most_different"]:
        click.echo("\nwhere they differ most:")
        labelled = ["anomalous"] if "separation" in result else []
        texts = ["input", *labelled, "parts by A", "parts by B"]
        rows = [_different(row) for row in result["most_different"]]
        print_table([*texts, "p by A", "p by B"], rows, left=len(texts))


def _cells(figure: Mapping[str, Any]) -> list[str]:
    values = [f"{figure['first']:.3f}", f"{figure['second']:.3f}"]
    if "difference" not in figure:
        return [*values, "", ""]
    low, high = figure["difference_interval"]
    return [*values, f"{figure['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}"]


def _different(row: Mapping[str, Any]) -> list[str]:
    labelled = [("yes" if row["is_anomalous"] else "no")] if "is_anomalous" in row else []
    p_values = [f"{p:.3g}" for p in row["p_values"]]
    return [row["input_id"], *labelled, *(parts or "-" for parts in row["top_components"]), *p_values]
