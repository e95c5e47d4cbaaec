"""`madpipe edit`: the network without some of its mechanisms, as plain weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from madpipe.cli.explain import numbers
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
from madpipe.cli.printing import print_json, talk, visible

EXAMPLES = examples(
    "madpipe edit --pipeline pipeline --remove delta@fc1,delta@fc2 -o edited.safetensors",
    "madpipe edit --pipeline pipeline --remove-named-by new.npz --check test.npz -o edited.safetensors",
)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.option("--remove", metavar="PART,PART,...", help="Parts to take out, as score and explain name them.")
@click.option("--remove-named-by", "named_by", type=FILE, metavar="INPUTS", help="Take out what these inputs show.")
@click.option("--index", metavar="I,J,...", callback=numbers, help="Rows of INPUTS, from 0; default: the flagged ones.")
@click.option("-o", "--output", type=FILE, metavar="FILE.safetensors", required=True, help="The weights, and a .json.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--trusted", type=FILE, help="Trusted rows to measure on; default: the pipeline's calibration rows.")
@click.option("--check", type=FILE, metavar="INPUTS", help="Count the decisions that change on these inputs too.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Inputs of --remove-named-by are flagged when their p-value is at most this.",
)
@key_option
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
def edit(
    pipeline: str,
    remove: str | None,
    named_by: Path | None,
    index: tuple[int, ...] | None,
    output: Path,
    overwrite: bool,
    trusted: Path | None,
    check: Path | None,
    alpha: float,
    key: str | None,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Take mechanisms out of the network.

    The result is a state dict of the same architecture, which your own factory loads without madpipe. Ten or more
    inputs that show a backdoor let --remove-named-by take less out of the network than whole parts.
    """
    if (remove is None) == (named_by is None):
        raise click.UsageError("give either --remove or --remove-named-by.")
    if index is not None and named_by is None:
        raise click.UsageError("--index numbers rows of --remove-named-by.")
    if output.suffix != ".safetensors":
        raise click.UsageError(f"-o '{output}': the name must end in .safetensors.")
    from madpipe.workflows.edit import edit as edit_target

    document = edit_target(
        pipeline,
        remove=None if remove is None else [name.strip() for name in remove.split(",") if name.strip()],
        named_by=named_by,
        index=index,
        output=output,
        trusted=trusted,
        check=check,
        overwrite=overwrite,
        key=key,
        alpha=alpha,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
        report=talk,
    )
    if as_json:
        print_json(document)
    else:
        _print(document)
    talk(f"Wrote {output}. Next: load it with your own factory, module.load_state_dict(...).")


def _print(document: Mapping[str, Any]) -> None:
    how = "" if document["share"] is None else f", the part that these inputs excite (share {document['share']:g})"
    click.echo(visible(f"removed: {', '.join(document['removed']) or 'nothing'}{how}"))
    for name in ("trusted", "checked"):
        if name in document:
            click.echo(f"{name} inputs: {_change(document[name])}")


def _change(change: Mapping[str, Any]) -> str:
    diverged = f"divergence {change['divergence']:.3g} nats"
    if change["changed"] is None:
        return f"{diverged} over {change['rows']:,}"
    return f"{change['changed']:,} of {change['rows']:,} decisions change, {diverged}"
