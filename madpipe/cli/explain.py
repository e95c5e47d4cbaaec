"""`madpipe explain`: why the network's output on an input surprises, in words, as JSON and in pictures."""

from pathlib import Path

import click

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
from madpipe.cli.printing import command_line, counted, print_json, talk

EXAMPLES = examples(
    "madpipe explain --pipeline pipeline new.npz",
    "madpipe explain --pipeline pipeline new.npz --index 17,203 --image 8x8 -o explanations",
)


def numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """`3,17` as row numbers."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise click.BadParameter(f"'{text}' is no list of row numbers such as 3,17.")
    return tuple(int(word) for word in words)


def height_and_width(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """`8x8` as (8, 8)."""
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise click.BadParameter(f"'{text}' is no height and width such as 8x8.")
    return int(height), int(width)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.argument("inputs", type=FILE)
@click.option("--index", metavar="I,J,...", callback=numbers, help="Rows to explain, from 0; default: flagged ones.")
@click.option("-o", "--output", type=FILE, metavar="DIR", help="A new folder for explanations.json and a PNG each.")
@click.option("--overwrite", is_flag=True, help="Replace a folder of explanations that is there.")
@click.option("--trusted", type=FILE, help="Trusted rows to compare with; default: those kept in the pipeline.")
@click.option("--image", metavar="HxW", callback=height_and_width, help="Draw flat inputs as images of this size.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="Without --index: explain inputs whose p-value is at most this, most anomalous first, at most 5.",
)
@key_option
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
def explain(
    pipeline: str,
    inputs: Path,
    index: tuple[int, ...] | None,
    output: Path | None,
    overwrite: bool,
    trusted: Path | None,
    image: tuple[int, int] | None,
    alpha: float,
    key: str | None,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Say why the network's output on an input surprises.

    Parts of the network are switched off one after another and together: the parts named are the fewest whose removal
    gives back the output that trusted mechanisms explain.
    """
    from madpipe.workflows.explain import explain as explain_inputs
    from madpipe.workflows.explanation_words import lines

    result = explain_inputs(
        pipeline,
        inputs,
        index=index,
        output=output,
        overwrite=overwrite,
        trusted=trusted,
        image=image,
        key=key,
        alpha=alpha,
        trust_code=trust_code,
        tracking_uri=tracking_uri,
        report=talk,
    )
    documents = [one.to_json() for one in result.explanations]
    if as_json:
        print_json({"pipeline": pipeline, "inputs": inputs, "output": output, "explanations": documents})
    else:
        for document in documents:
            click.echo("\n".join([*lines(document), ""]))
    drawn = f" -> {output}" if output else ""
    named = sorted({name for document in documents for name in document["named"]})
    following = command_line(
        "madpipe", "edit", "--pipeline", pipeline, "--remove", ",".join(named), "-o", "edited.safetensors"
    )
    talk(f"Explained {counted(len(documents), 'input')}{drawn}." + (f" Next: {following}" if named else ""))
