"""`madpipe report`: a pipeline, and what it says of inputs, as one page to hand on."""

from pathlib import Path

import click

from madpipe.cli.explain import height_and_width
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
from madpipe.cli.printing import command_line, print_json, talk
from madpipe.cli.score_options import PROBABILITY

EXAMPLES = examples(
    "madpipe report --pipeline pipeline -o report.html",
    "madpipe report --pipeline pipeline --scores scores.parquet --inputs new.npz -o report.html",
    "madpipe report --pipeline pipeline --inputs test.npz --label is_anomalous --image 8x8 -o report.html",
)


@click.command(epilog=EXAMPLES)
@pipeline_option
@click.option("--scores", type=FILE, help="A score file of this pipeline: its rows and flags are reported.")
@click.option("--inputs", type=FILE, help="Inputs to report on; with --scores, the ones that were scored.")
@click.option("--label", help="Name of a true/false array or column of --inputs: adds ROC curves and controls.")
@click.option("-o", "--output", type=FILE, metavar="FILE.html", required=True, help="The page to write.")
@click.option("--overwrite", is_flag=True, help="Replace a page that is there.")
@click.option("--alpha", type=PROBABILITY, help="Flag --inputs at this p-value; default: 0.01. --scores has its own.")
@click.option(
    "--explain",
    type=click.IntRange(0, 50),
    default=5,
    show_default=True,
    help="How many flagged inputs to explain, the most anomalous first.",
)
@click.option("--controls/--no-controls", default=True, help="With --label: fit simple detectors to compare with.")
@click.option("--trusted", type=FILE, help="Trusted rows to compare with; default: those kept in the pipeline.")
@click.option("--image", metavar="HxW", callback=height_and_width, help="Draw flat inputs as images of this size.")
@key_option
@trust_code_option
@tracking_uri_option
@threads_option
@json_option
def report(
    pipeline: str,
    scores: Path | None,
    inputs: Path | None,
    label: str | None,
    output: Path,
    overwrite: bool,
    alpha: float | None,
    explain: int,
    controls: bool,
    trusted: Path | None,
    image: tuple[int, int] | None,
    key: str | None,
    trust_code: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Write a page about a pipeline and the inputs it scored.

    One file that needs no network and no scripts: the decomposition, its components, whether p-values are honest,
    scores, flagged inputs explained, and how to make all of it again. --json prints the figures it shows.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"-o '{output}': the name must end in .html.")
    if scores is not None and alpha is not None:
        raise click.UsageError("--alpha flags --inputs; --scores has flags already: give one of them.")
    from madpipe.workflows.report import report as write_report
    from madpipe.workflows.report_asked import Asked

    asked = Asked(
        pipeline=pipeline,
        output=output,
        scores=scores,
        inputs=inputs,
        label=label,
        alpha=0.01 if alpha is None else alpha,
        explain=explain,
        controls=controls,
        trusted=trusted,
        image=image,
        key=key,
    )
    result = write_report(asked, overwrite=overwrite, trust_code=trust_code, tracking_uri=tracking_uri, report=talk)
    if as_json:
        print_json({"report": result.path, "bytes": result.bytes, "figures": result.figures})
    flagged = result.figures.get("scores", {}).get("flagged", 0)
    following = "open it in a browser" if flagged or inputs or scores else "add " + command_line("--inputs", "new.npz")
    talk(f"Wrote {result.path}, {result.bytes / 1e6:.1f} MB, one file that fetches nothing. Next: {following}.")
