"""`madpipe sync`: what a tracking server could not take -> the tracking server."""

from pathlib import Path

import click

from madpipe.cli.options import FILE, examples, json_option, tracking_uri_option
from madpipe.cli.printing import command_line, counted, print_json, talk

EXAMPLES = examples(
    "madpipe sync pipeline",
    "madpipe sync pipeline.unsent --tracking-uri http://mlflow.example:5000 --json",
)


@click.command(epilog=EXAMPLES)
@click.argument("path", metavar="DIR", type=FILE)
@tracking_uri_option
@json_option
def sync(path: Path, tracking_uri: str | None, as_json: bool) -> None:
    """Send what was kept while a tracking server was away.

    DIR is a result of fit or decompose, or DIR.unsent, in which its metrics, params, artifacts and models wait. They
    keep their times and steps. What ends in the middle may be repeated: nothing is stored twice.
    """
    from madpipe.workflows.sync import sync as send

    made = send(path, tracking_uri)
    if as_json:
        print_json({"sent": made.sent, "address": made.address})
    else:
        click.echo(made.sent)
    if made.address is None:
        talk("Nothing was kept: all is sent.")
        return
    following = command_line("madpipe", "runs", "--tracking-uri", made.address)
    talk(f"Sent {counted(made.sent, 'write')} to {made.address}. Next: {following}")
