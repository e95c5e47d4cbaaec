"""The `madpipe` command: a group whose commands are imported when they are named."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from madpipe import __version__
from madpipe.cli.ending import exit_code_of
from madpipe.errors import nearest

COMMANDS = {
    "fit": "madpipe.cli.fit:fit",
    "decompose": "madpipe.cli.decompose:decompose",
    "score": "madpipe.cli.score:score",
    "merge": "madpipe.cli.merge:merge",
    "explain": "madpipe.cli.explain:explain",
    "report": "madpipe.cli.report:report",
    "edit": "madpipe.cli.edit:edit",
    "evaluate": "madpipe.cli.evaluate:evaluate",
    "recalibrate": "madpipe.cli.recalibrate:recalibrate",
    "compare": "madpipe.cli.compare:compare",
    "runs": "madpipe.cli.runs:runs",
    "promote": "madpipe.cli.promote:promote",
    "sync": "madpipe.cli.sync:sync",
    "serve": "madpipe.cli.serve:serve",
    "benchmark": "madpipe.cli.benchmark:benchmark",
    "tasks": "madpipe.cli.tasks:tasks",
    "config": "madpipe.cli.config:config",
    "ui": "madpipe.cli.ui:ui",
    "completion": "madpipe.cli.completion:completion",
}
EPILOG = """\b
Examples:
  madpipe tasks export digits-conj-cnn-0 demo
  madpipe fit demo/config.yaml -o demo/pipeline

\b
Exit codes:
  0  done
  1  failure
  2  wrong usage or config
  3  inputs were flagged (score --fail-if-flagged), or scores drifted (--fail-if-drift)
  4  content that does not fit (shapes, NaN, weights, too few rows, damaged files)
  5  trainer.max_time is over; the same command continues
  130, 143  stopped by SIGINT, SIGTERM"""


class LazyGroup(click.Group):
    """Commands in the order of COMMANDS, each imported only when it is run or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command named '{args[0]}'.{nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="madpipe", message="%(prog)s %(version)s")
def group() -> None:
    """Tell when a network's output came from a mechanism that trusted data never needed.

    fit decomposes a network on trusted data and calibrates detectors; score gives every new input a p-value.
    Results go to stdout and to files, talk goes to stderr.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line with `arguments` (default: the process's own) and end the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(exit_code_of(lambda: group.main(arguments, prog_name="madpipe", standalone_mode=False)))
