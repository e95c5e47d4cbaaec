"""`madpipe score`: new inputs -> a table of anomaly scores, p-values and flags."""

from pathlib import Path

import click

from madpipe.cli.options import (
    FILE,
    examples,
    json_option,
    key_option,
    pipeline_option,
    threads_option,
    tracking_uri_option,
    trust_code_option,
)
from madpipe.cli.printing import counted, duration, print_json, talk

FLAGGED = 3
SUFFIXES = (".parquet", ".csv", ".jsonl")
EXAMPLES = examples(
    "madpipe score --pipeline pipeline new.npz -o scores.parquet",
    "madpipe score --pipeline models:/madpipe@champion --trust-code new.csv --alpha 0.001 --fail-if-flagged",
)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.argument("inputs", type=FILE, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE|-",
    help="A .parquet, .csv or .jsonl file, or - for stdout; default: stdout, and with --json no table.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Flag an input when its p-value is at most this: the share of trusted inputs flagged by mistake.",
)
@key_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Inputs in memory at once; default: the pipeline's.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps.")
@click.option("--fail-if-flagged", is_flag=True, help="Exit with 3 when any input is flagged.")
@click.option("--log", is_flag=True, help="Log the summary and the table to MLflow too.")
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
@click.pass_context
def score(
    context: click.Context,
    pipeline: str,
    inputs: tuple[Path, ...],
    output: str | None,
    alpha: float,
    key: str | None,
    batch_size: int | None,
    device: str,
    fail_if_flagged: bool,
    log: bool,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Give every input an anomaly score, a p-value and a flag.

    Rows keep the order of the files.
    """
    output = _checked_output(output, as_json)
    from madpipe.workflows.score import score as score_inputs

    result = score_inputs(
        pipeline,
        inputs,
        output=output,
        alpha=alpha,
        key=key,
        batch_size=batch_size,
        device=device,
        log=log,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
        report=talk,
    )
    if as_json:
        names = ("rows", "flagged", "output", "calibration_size", "seconds")
        print_json({name: getattr(result, name) for name in names} | {"alpha": alpha})
    where = f" -> {output}" if output not in (None, "-") else ""
    did = f"Scored {counted(result.rows, 'input')} in {duration(result.seconds)}"
    talk(f"{did}, {result.flagged:,} flagged at p <= {alpha:g}{where}. Next: {_following(result.flagged, output)}")
    if fail_if_flagged and result.flagged:
        context.exit(FLAGGED)


def _checked_output(output: str | None, as_json: bool) -> str | None:
    if output == "-" and as_json:
        raise click.UsageError("-o - and --json would both write to stdout: give -o a file.")
    if output is None:
        return None if as_json else "-"
    if output != "-" and not output.endswith(SUFFIXES):
        raise click.UsageError(f"-o '{output}': the name must end in {', '.join(SUFFIXES)}, or be - for stdout.")
    return output


def _following(flagged: int, output: str | None) -> str:
    if output in (None, "-"):
        return "keep the table with -o scores.parquet"
    return "read top_components of the flagged rows" if flagged else "score further inputs with the same command"
