"""Options that several commands share, and the examples under a command's help."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
# Read by OpenMP, MKL and OpenBLAS when numpy and torch are first imported, which is after the options are read.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def config_argument(command: Decorated) -> Decorated:
    return click.argument("config", type=FILE)(command)


def set_option(command: Decorated) -> Decorated:
    text = "Override a key of the config; the value is YAML. May be repeated."
    return click.option("--set", "overrides", metavar="KEY.SUB=VALUE", multiple=True, help=text)(command)


def pipeline_option(command: Decorated) -> Decorated:
    text = "A pipeline folder, or a model in MLflow: models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/PATH."
    return click.option(
        "--pipeline", metavar="DIR|MODEL_URI", required=True, shell_complete=complete_folder, help=text
    )(command)


def complete_folder(context: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Lets the shell complete folders where a model's address may stand too."""
    return [CompletionItem(incomplete, type="dir")]


def key_option(command: Decorated) -> Decorated:
    text = "Name of the array or column in the input files; default: the one the pipeline was fitted on."
    return click.option("--key", help=text)(command)


def tracking_uri_option(command: Decorated) -> Decorated:
    text = "MLflow store; default: MLFLOW_TRACKING_URI, else mlflow.db in the current folder."
    return click.option("--tracking-uri", metavar="URI", help=text)(command)


def spool_option(command: Decorated) -> Decorated:
    text = "Begin even if the tracking server does not answer; 'madpipe sync' sends later what is logged."
    return click.option("--spool", is_flag=True, help=text)(command)


def trust_code_option(command: Decorated) -> Decorated:
    text = "Run the code stored with a model in MLflow: the target's factory."
    return click.option("--trust-code", is_flag=True, help=text)(command)


def json_option(command: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def threads_option(command: Decorated) -> Decorated:
    text = "CPU threads for numerical work; default: what the libraries choose."
    kind = click.IntRange(min=1)
    return click.option("--threads", type=kind, is_eager=True, expose_value=False, callback=_limit_threads, help=text)(
        command
    )


def _limit_threads(context: click.Context, option: click.Parameter, count: int | None) -> None:
    if count is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
