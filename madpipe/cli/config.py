"""`madpipe config`: what a config file means once every default is filled in, and the schema of all configs."""

from pathlib import Path

import click

from madpipe.cli.options import config_argument, examples, set_option
from madpipe.cli.printing import command_line, counted, print_json, talk


@click.group(epilog=examples("madpipe config show config.yaml", "madpipe config validate config.yaml"))
def config() -> None:
    """Show, check or describe config files."""


@config.command(
    epilog=examples(
        "madpipe config show config.yaml",
        "madpipe config show config.yaml --set decomposition.method=apd > whole.yaml",
    )
)
@config_argument
@set_option
def show(config: Path, overrides: tuple[str, ...]) -> None:
    """Print the config with every default written out.

    The defaults of methods, extractors and detectors too.
    """
    import yaml

    from madpipe.config.loading import load_config
    from madpipe.config.resolving import resolved

    whole = resolved(load_config(config, overrides))
    click.echo(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120), nl=False)
    talk(f"Next: {_fit_line(config, overrides)}")


@config.command(
    epilog=examples("madpipe config validate config.yaml", "madpipe config validate config.yaml --set seed=1")
)
@config_argument
@set_option
def validate(config: Path, overrides: tuple[str, ...]) -> None:
    """Say whether fit would accept the config.

    Opens none of the files that the config names.
    """
    from madpipe.config.loading import load_config

    loaded = load_config(config, overrides)
    source = f"task {loaded.task['name']}" if loaded.task else f"data {loaded.data.trusted if loaded.data else ''}"
    decomposition = loaded.decomposition
    how = (
        f"decomposition from {decomposition['from']}"
        if "from" in decomposition
        else f"method {decomposition['method']}"
    )
    held = f"{source}, {how}, {counted(len(loaded.detectors.members), 'member')}"
    talk(f"{config} is valid: {held}. Next: {_fit_line(config, overrides)}")


@config.command(
    epilog=examples("madpipe config schema > madpipe.schema.json", "madpipe config schema | python -m json.tool")
)
def schema() -> None:
    """Print the JSON schema of config files.

    Editors read it to complete and check YAML.
    """
    from madpipe.config.resolving import json_schema

    print_json(json_schema())
    talk("Next: open a config with '# yaml-language-server: $schema=madpipe.schema.json' in its first line.")


def _fit_line(config: Path, overrides: tuple[str, ...]) -> str:
    words = [word for override in overrides for word in ("--set", override)]
    return command_line("madpipe", "fit", config, *words)
