"""`madpipe score`: new inputs -> a table of anomaly scores, p-values and flags, or one for every input file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from madpipe.cli.printing import command_line, counted, duration, print_json, talk
from madpipe.cli.score_options import (
    check_together,
    checked_output,
    is_folder,
    monitor_options,
    rule_options,
    scale_options,
)

FLAGGED = 3
UNSCORED = 4
EXAMPLES = examples(
    "madpipe score --pipeline pipeline new.npz -o scores.parquet",
    "madpipe score --pipeline models:/madpipe@champion --trust-code new.csv --alpha 0.001 --fail-if-flagged",
    "madpipe score --pipeline pipeline new.npz -o scores.parquet --monitor drift.npz --fail-if-drift",
    "madpipe score --pipeline pipeline incoming/ -o scores/ --since last",
    "madpipe score --pipeline pipeline big.npy --shard 0/8 -o shards/0.parquet",
)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.argument("inputs", type=FILE, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="FILE|FOLDER/|-",
    help="A .parquet, .csv or .jsonl file; or a folder, for one score file per input file; or - for stdout. "
    "Default: stdout, and with --json no table.",
)
@rule_options
@key_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Inputs in memory at once; default: the pipeline's.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps.")
@scale_options
@monitor_options
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
    as_json: bool,
    fail_if_flagged: bool,
    fail_if_drift: bool,
    **asked: Any,
) -> None:
    """Give every input an anomaly score, a p-value and a flag.

    Rows keep the order of the files. With -o FOLDER/ inputs may be folders too, and files that were scored before are
    skipped.
    """
    check_together(context, asked, output)
    kind, since = asked.pop("kind"), asked.pop("since")
    if output is not None and is_folder(output):
        from madpipe.workflows.score_folder import score_folder

        del asked["fdr"], asked["shard"]
        result: Any = score_folder(
            pipeline, inputs, output=Path(output), suffix=f".{kind}", since=since, report=talk, **asked
        )
        _tell_folder(result, asked["alpha"], as_json)
    else:
        output = checked_output(output, as_json)
        from madpipe.workflows.score import score as score_inputs

        result = score_inputs(pipeline, inputs, output=output, report=talk, **asked)
        _tell_table(result, asked["alpha"], asked["fdr"], asked["shard"], as_json)
    drifted = result.drift is not None and result.drift.alarmed_at is not None
    if getattr(result, "failed", None):
        context.exit(UNSCORED)
    if (fail_if_flagged and result.flagged) or (fail_if_drift and drifted):
        context.exit(FLAGGED)


def _tell_table(result: Any, alpha: float, fdr: float | None, shard: tuple[int, int] | None, as_json: bool) -> None:
    if as_json:
        names = ("rows", "flagged", "output", "calibration_size", "seconds")
        rule = {"alpha": alpha} if fdr is None else {"fdr": fdr}
        print_json({name: getattr(result, name) for name in names} | rule | _drift(result))
    where = f" -> {result.output}" if result.output not in (None, "-") else ""
    rule_text = f"p <= {alpha:g}" if fdr is None else f"false-discovery rate {fdr:g}"
    did = f"Scored {counted(result.rows, 'input')} in {duration(result.seconds)}"
    following = _following(result.flagged, result.output, shard)
    talk(f"{did}, {result.flagged:,} flagged at {rule_text}{where}. Next: {following}")


def _tell_folder(result: Any, alpha: float, as_json: bool) -> None:
    if as_json:
        names = ("rows", "flagged", "output", "scored", "skipped", "failed", "calibration_size", "seconds")
        print_json({name: getattr(result, name) for name in names} | {"alpha": alpha} | _drift(result))
    did = f"Scored {counted(result.rows, 'input')} of {counted(len(result.scored), 'file')}"
    skipped = f"; {counted(len(result.skipped), 'file')} scored before skipped" if result.skipped else ""
    failed = f"; {counted(len(result.failed), 'file')} could not be scored" if result.failed else ""
    flagged = f"{result.flagged:,} flagged at p <= {alpha:g}"
    following = "mend or move what could not be scored" if result.failed else "the same command when new files came"
    talk(
        f"{did} in {duration(result.seconds)}, {flagged} -> {result.output}/{skipped}{failed}. Next: {following}",
    )


def _drift(result: Any) -> dict[str, Any]:
    if result.drift is None:
        return {}
    return {"drift": {name: value for name, value in asdict(result.drift).items() if name != "history"}}


def _following(flagged: int, output: str | None, shard: tuple[int, int] | None) -> str:
    if shard and output:
        others = "all other shards, then " if shard[1] > 1 else ""
        path = Path(output)
        return f"{others}{command_line('madpipe', 'merge', path.parent)}/*{path.suffix} -o scores.parquet"
    if output in (None, "-"):
        return "keep the table with -o scores.parquet"
    return "read top_components of the flagged rows" if flagged else "score further inputs with the same command"
