"""`madpipe serve`: a pipeline that answers over HTTP."""

import os

import click

from madpipe.cli.options import (
    THREAD_VARIABLES,
    examples,
    json_option,
    pipeline_option,
    threads_option,
    tracking_uri_option,
    trust_code_option,
)
from madpipe.cli.printing import print_json, talk

EXAMPLES = examples(
    "madpipe serve --pipeline pipeline",
    "madpipe serve --pipeline models:/digits@champion --trust-code --port 8080 --workers 4",
)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in, unprotected.")
@click.option("--port", type=click.IntRange(0, 65535), default=5001, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, each a pipeline.")
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
def serve(
    pipeline: str,
    host: str,
    port: int,
    workers: int,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Score inputs sent over HTTP.

    POST /invocations takes JSON ({"inputs": [[...], ...]}, dataframe_split, dataframe_records, or a list of rows) or
    CSV with a header, and answers with anomaly_score, p_value, flagged and top_components of every row. The level is
    {"params": {"alpha": 0.05}}, or ?alpha=0.05 in the address. What cannot be scored gets a 400 that says why.
    GET /health tells that it is up, GET /example gives a request to try.

    It is MLflow's scoring server. Each worker computes on one thread unless --threads or OMP_NUM_THREADS says
    otherwise. Ctrl-C and SIGTERM end it with 0 when open requests are answered.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")  # one input at a time is faster without threads that wait for each other
    from madpipe.workflows.serve import serve as serve_pipeline

    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "pipeline": pipeline, "workers": workers})
        talk(f"Serving {pipeline} at {url} (Ctrl-C ends it). Next: {_example(url)}")

    serve_pipeline(
        pipeline,
        host=host,
        port=port,
        workers=workers,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
        ready=ready,
    )


def _example(url: str) -> str:
    return f"curl -s {url}/example | curl -s {url}/invocations -H 'Content-Type: application/json' -d @-"
