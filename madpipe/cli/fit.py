"""`madpipe fit`: a config -> a fitted pipeline folder, logged in MLflow."""

from pathlib import Path

import click

from madpipe.cli.options import (
    FILE,
    config_argument,
    examples,
    json_option,
    set_option,
    spool_option,
    threads_option,
    tracking_uri_option,
)
from madpipe.cli.printing import command_line, duration, near, print_json, talk, tell_unsent

EXAMPLES = examples(
    "madpipe fit config.yaml -o pipeline",
    "madpipe fit config.yaml --set decomposition.steps=2000 --set seed=1 --overwrite",
)


@click.command(epilog=EXAMPLES)
@config_argument
@click.option("-o", "--output", type=FILE, metavar="DIR", help="Pipeline folder; default: ./<experiment>-<run name>.")
@click.option("--overwrite", is_flag=True, help="Replace an existing DIR.")
@set_option
@tracking_uri_option
@spool_option
@threads_option
@json_option
def fit(
    config: Path,
    output: Path | None,
    overwrite: bool,
    overrides: tuple[str, ...],
    tracking_uri: str | None,
    spool: bool,
    as_json: bool,
) -> None:
    """Decompose a network, fit and calibrate detectors.

    Only trusted data are used. The result is a pipeline folder, logged and registered in MLflow; its path is printed.
    An interrupted fit is resumed by the same command.
    """
    from madpipe.config.loading import load_config
    from madpipe.workflows.fit import fit as fit_pipeline

    result = fit_pipeline(
        load_config(config, overrides),
        base=config.resolve().parent,
        output=output,
        overwrite=overwrite,
        tracking_uri=tracking_uri,
        spool=spool,
        report=talk,
    )
    if as_json:
        names = ("pipeline", "run_id", "decomposition_run_id", "model_uri", "seconds", "unsent")
        print_json({name: getattr(result, name) for name in names})
    else:
        click.echo(result.pipeline)
    folder = near(result.pipeline)
    registered = f", logged as {result.model_uri}" if result.model_uri else ""
    tell_unsent(result.unsent, result.pipeline)
    following = command_line("madpipe", "score", "--pipeline", folder, "new.npz", "-o", "scores.parquet")
    talk(f"Fitted {folder} in {duration(result.seconds)} ({result.summary}){registered}. Next: {following}")
