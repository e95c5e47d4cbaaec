"""`madpipe benchmark`: suites -> every task, pipeline and seed fitted and judged beside the controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from madpipe.cli.options import FILE, examples, json_option, tracking_uri_option
from madpipe.cli.printing import command_line, counted, duration, near, print_json, print_table, talk

EXAMPLES = examples(
    "madpipe benchmark configs/suite/small.yaml -o benchmark",
    "madpipe benchmark configs/suite/boolean.yaml --only override --workers 4",
    "madpipe benchmark configs/suite/small.yaml -o benchmark --report-only --json",
)
FAILED = 1


@click.command(epilog=EXAMPLES)
@click.argument("suites", type=FILE, nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    help="Where results go, and are kept; with several suites, a folder in it for each. Default: ./benchmark-<suite>.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Cells at a time, each on one thread; default: the cores.")
@click.option("--only", metavar="TEXT", default="", help="Run the cells whose name holds this text.")
@click.option("--report-only", is_flag=True, help="Run nothing: sum up the cells that are there.")
@tracking_uri_option
@json_option
@click.pass_context
def benchmark(
    context: click.Context,
    suites: tuple[Path, ...],
    output: Path | None,
    workers: int | None,
    only: str,
    report_only: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Fit and judge pipelines and controls on tasks.

    Every task, seed and pipeline of a suite is a cell, run in a process of its own and kept in DIR/cells. The same
    command runs what is missing or was changed. Tables and a page are written into DIR.
    """
    from madpipe.config.suite import load_suite
    from madpipe.workflows.benchmark import benchmark as run_benchmark

    loaded = [load_suite(path) for path in suites]
    names = [suite.name for suite in loaded]
    if twice := [name for name in names if names.count(name) > 1]:
        raise click.UsageError(f"two suites are named '{twice[0]}'.")
    results = []
    for path, suite in zip(suites, loaded, strict=True):
        folder = _folder(output, suite.name, len(loaded))
        result = run_benchmark(
            suite,
            output=folder.absolute(),
            workers=workers,
            only=only,
            report_only=report_only,
            tracking_uri=tracking_uri,
            report=talk,
        )
        results.append(result)
        if not as_json:
            _print(result.tables)
        _close(result, path, output, only)
    if as_json:
        documents = {name: _document(result) for name, result in zip(names, results, strict=True)}
        print_json(documents if len(documents) > 1 else documents[names[0]])
    if any(result.failed or result.untracked for result in results):
        context.exit(FAILED)


def _folder(output: Path | None, suite: str, suites: int) -> Path:
    if output is None:
        return Path(f"benchmark-{suite}")
    return output / suite if suites > 1 else output


def _print(tables: Sequence[Any]) -> None:
    """The first two: detection on each task, and over all; the others stand in the files."""
    for table in tables[:2]:
        click.echo(f"\n{table.title}")
        rows = [[_cell(value) for value in row.values()] for row in table.rows]
        print_table(list(table.rows[0]), rows)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _close(result: Any, suite: Path, output: Path | None, only: str) -> None:
    for name, reason in result.failed.items():
        talk(f"Failed: {name}: {reason}")
    if result.untracked:
        talk(f"Not all is logged: {result.untracked} {near(result.folder)} is whole; the same command logs the rest.")
    counts = f"{counted(result.made, 'cell')} run, {result.kept} kept, {len(result.failed)} failed"
    missing = f", {len(result.missing)} yet to run" if result.missing else ""
    where = f" -> {near(result.folder)}/report.html" if result.tables else ""
    again = command_line("madpipe", "benchmark", suite, *(("-o", output) if output else ()))
    following = f"open {near(result.folder)}/report.html" if not (result.failed or result.missing) else again
    talk(f"Benchmark: {counts}{missing} in {duration(result.seconds)}{where}. Next: {following}")


def _document(result: Any) -> dict[str, Any]:
    names = ("folder", "made", "kept", "failed", "missing", "run_id", "untracked", "seconds", "summary")
    return {name: getattr(result, name) for name in names}
