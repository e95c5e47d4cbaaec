"""`madpipe recalibrate`: fresh trusted inputs -> new p-values for the same scores."""

from pathlib import Path

import click

from madpipe.cli.options import FILE, examples, json_option, key_option
from madpipe.cli.printing import command_line, print_json, talk

EXAMPLES = examples(
    "madpipe recalibrate --pipeline pipeline --trusted this_month.npz",
    "madpipe recalibrate --pipeline pipeline --trusted this_month.csv --key x --json",
)


@click.command(epilog=EXAMPLES)
@click.option("--pipeline", type=FILE, metavar="DIR", required=True, help="A pipeline folder; it is changed in place.")
@click.option("--trusted", type=FILE, required=True, help="Trusted inputs that the pipeline was not fitted on.")
@key_option
@json_option
def recalibrate(pipeline: Path, trusted: Path, key: str | None, as_json: bool) -> None:
    """Take p-values from new trusted inputs; nothing is refitted."""
    from madpipe.workflows.recalibrate import recalibrate as recalibrate_pipeline

    result = recalibrate_pipeline(pipeline, trusted, key=key, report=talk)
    if as_json:
        print_json(result)
    following = command_line("madpipe", "score", "--pipeline", pipeline, "new.npz", "-o", "scores.parquet")
    talk(f"Recalibrated {pipeline} on {trusted}. Next: {following}")
