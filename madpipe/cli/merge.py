"""`madpipe merge`: the score files of all shards -> the table that one process would have written."""

from pathlib import Path

import click

from madpipe.cli.options import FILE, examples, json_option
from madpipe.cli.printing import counted, duration, print_json, talk
from madpipe.cli.score_options import PROBABILITY, checked_output

FLAGGED = 3
EXAMPLES = examples(
    "madpipe merge shards/*.parquet -o scores.parquet",
    "madpipe merge shards/*.parquet -o scores.parquet --fdr 0.05 --fail-if-flagged",
)


@click.command(epilog=EXAMPLES)
@click.argument("scores", type=FILE, nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="FILE|-", required=True, help="A .parquet, .csv or .jsonl file, or - for stdout."
)
@click.option("--fdr", type=PROBABILITY, metavar="Q", help="Flag by false-discovery control over all rows instead.")
@click.option("--fail-if-flagged", is_flag=True, help="Exit with 3 when any input is flagged.")
@json_option
@click.pass_context
def merge(
    context: click.Context,
    scores: tuple[Path, ...],
    output: str,
    fdr: float | None,
    fail_if_flagged: bool,
    as_json: bool,
) -> None:
    """Join the score files of all shards.

    They are what `madpipe score --shard` wrote, in any order; one that lacks is named. Shards must be of the same
    pipeline, inputs (names and contents), --alpha, --key and number of shards.
    """
    checked_output(output, as_json)
    from madpipe.workflows.merge import merge as merge_scores

    result = merge_scores(scores, output=output, fdr=fdr, report=talk)
    if as_json:
        print_json({name: getattr(result, name) for name in ("rows", "flagged", "output", "shards", "rule", "seconds")})
    ((rule, level),) = result.rule.items()
    rule_text = f"p <= {level:g}" if rule == "alpha" else f"false-discovery rate {level:g}"
    did = f"Merged {counted(result.shards, 'shard')}, {counted(result.rows, 'input')}, in {duration(result.seconds)}"
    where = f" -> {output}" if output != "-" else ""
    following = "read top_components of the flagged rows" if result.flagged else "nothing is flagged"
    talk(f"{did}, {result.flagged:,} flagged at {rule_text}{where}. Next: {following}")
    if fail_if_flagged and result.flagged:
        context.exit(FLAGGED)
