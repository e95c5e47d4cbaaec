"""`madpipe ui`: MLflow's pages on the store that madpipe writes to."""

import click

from madpipe.cli.options import examples, tracking_uri_option
from madpipe.cli.printing import talk


@click.command(epilog=examples("madpipe ui", "madpipe ui --tracking-uri sqlite:////data/mlflow.db --port 5001"))
@tracking_uri_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in, unprotected.")
def ui(tracking_uri: str | None, port: int, host: str) -> None:
    """Serve MLflow's pages: runs, figures, registered models.

    Ctrl-C ends it.
    """
    from madpipe.workflows.ui import serve_ui

    serve_ui(tracking_uri, host=host, port=port, report=talk)
