"""Options of `madpipe score` beyond one table, and which of them exclude one another."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from madpipe.cli.options import FILE, Decorated

SUFFIXES = (".parquet", ".csv", ".jsonl")
PROBABILITY = click.FloatRange(0, 1, min_open=True, max_open=True)


class Shard(click.ParamType):
    """`i/n` as (i, n), 0 <= i < n."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return int(index), int(count)
        self.fail(f"'{value}' is not i/n with 0 <= i < n: the first of four shards is 0/4, the last 3/4.", param, ctx)


class Since(click.ParamType):
    """An ISO time as ns since 1970, or the word last."""

    name = "time|last"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "last" or isinstance(value, int):
            return value
        try:
            return int(datetime.fromisoformat(str(value)).timestamp() * 1e9)
        except ValueError:
            self.fail(f"'{value}' is neither 'last' nor an ISO time such as 2026-11-23T04:00:00+00:00.", param, ctx)


def rule_options(command: Decorated) -> Decorated:
    alpha = "Flag an input when its p-value is at most this: the share of trusted inputs flagged by mistake."
    fdr = "Flag by false-discovery control over all inputs instead: the share of flagged inputs flagged by mistake."
    command = click.option("--fdr", type=PROBABILITY, metavar="Q", help=fdr)(command)
    return click.option("--alpha", type=PROBABILITY, default=0.01, show_default=True, help=alpha)(command)


def scale_options(command: Decorated) -> Decorated:
    shard = "Score the i-th of n parts of the rows, 0 <= i < n; madpipe merge joins the parts."
    since = "With -o FOLDER: only files changed since then (ISO time), or since the newest one scored."
    kind = "With -o FOLDER: what score files are."
    command = click.option(
        "--format", "kind", type=click.Choice([suffix[1:] for suffix in SUFFIXES]), default="parquet", help=kind
    )(command)
    command = click.option("--since", type=Since(), metavar="TIME|last", help=since)(command)
    return click.option("--shard", type=Shard(), metavar="I/N", help=shard)(command)


def monitor_options(command: Decorated) -> Decorated:
    state = "Keep a watch for drift of the scores over all runs in this .npz file; its course is drawn beside it."
    level = "The chance that the watch ever raises a false alarm; default: 0.01, or what the file was begun with."
    fail = "Exit with 3 when the watch has raised an alarm."
    command = click.option("--fail-if-drift", is_flag=True, help=fail)(command)
    command = click.option("--monitor-level", type=PROBABILITY, help=level)(command)
    return click.option("--monitor", type=FILE, metavar="STATE", help=state)(command)


def is_folder(output: str | None) -> bool:
    return bool(output and output != "-" and (output.endswith("/") or Path(output).is_dir()))


def checked_output(output: str | None, as_json: bool) -> str | None:
    if output == "-" and as_json:
        raise click.UsageError("-o - and --json would both write to stdout: give -o a file.")
    if output is None:
        return None if as_json else "-"
    if output != "-" and not output.endswith(SUFFIXES):
        raise click.UsageError(
            f"-o '{output}': the name must end in {', '.join(SUFFIXES)}, or be - for stdout, or a folder (with a / at "
            "its end)."
        )
    return output


def check_together(context: click.Context, asked: Mapping[str, Any], output: str | None) -> None:
    """UsageError for options of which one has no meaning beside another."""
    given = {
        name
        for name in ("alpha", "fdr", "shard", "since", "kind", "monitor", "monitor_level", "fail_if_drift")
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    folder = is_folder(output)
    refusals = (
        ({"alpha", "fdr"} <= given, "--alpha and --fdr are two rules for one flag: give one of them."),
        ({"shard", "fdr"} <= given, "--fdr needs all p-values: score with --shard, then madpipe merge --fdr."),
        (
            {"shard", "monitor"} <= given,
            "--monitor follows the inputs in their order, which shards have not; watch where they are scored whole.",
        ),
        ("shard" in given and (folder or output in (None, "-")), "--shard needs -o with the name of a score file."),
        (folder and "fdr" in given, "--fdr needs one table of all inputs: give -o a file."),
        (not folder and "since" in given, "--since needs -o FOLDER/, in which it sees what was scored before."),
        (not folder and "kind" in given, "--format needs -o FOLDER/; of a single file the name's ending tells."),
        (not {"monitor"} & given and bool({"monitor_level", "fail_if_drift"} & given), "--monitor STATE is missing."),
    )
    for wrong, message in refusals:
        if wrong:
            raise click.UsageError(message)
