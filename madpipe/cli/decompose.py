"""`madpipe decompose`: a config -> a decomposition folder, judged, without detectors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from madpipe.cli.printing import command_line, counted, duration, near, print_json, print_table, talk, tell_unsent

EXAMPLES = examples(
    "madpipe decompose config.yaml -o decomposition --set decomposition.seeds=5",
    """madpipe fit config.yaml --set 'decomposition={"from": "decomposition"}' -o pipeline""",
)
COLUMNS = {  # header -> key of a seed's document; those of known mechanisms are left out where there are none
    "MMCS": "mmcs",
    "ML2R": "ml2r",
    "L0": "l0",
    "alive": "alive",
    "components": "components",
    "faithfulness": "faithfulness",
    "reconstruction": "reconstruction",
    "description length": "description_length",
}

FORMATS = {"mmcs": ".4f", "ml2r": ".4f"}  # near 1, where the digits after it tell


@click.command(epilog=EXAMPLES)
@config_argument
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    help="Decomposition folder; default: ./<experiment>-<run name>-decomposition.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing DIR.")
@set_option
@tracking_uri_option
@spool_option
@threads_option
@json_option
def decompose(
    config: Path,
    output: Path | None,
    overwrite: bool,
    overrides: tuple[str, ...],
    tracking_uri: str | None,
    spool: bool,
    as_json: bool,
) -> None:
    """Decompose a network, and judge every seed.

    Trains what fit would train, on the same rows, without detectors. The result is a decomposition folder, logged in
    MLflow; its path is printed. fit takes it up with the config key decomposition: {from: DIR}. An interrupted
    decomposition is resumed by the same command.
    """
    from madpipe.config.loading import load_config
    from madpipe.workflows.decompose import decompose as decompose_network

    result = decompose_network(
        load_config(config, overrides),
        base=config.resolve().parent,
        output=output,
        overwrite=overwrite,
        tracking_uri=tracking_uri,
        spool=spool,
        report=talk,
    )
    documents = [seed.document() for seed in result.seeds]
    if as_json:
        whole = {"decomposition": result.decomposition, "run_id": result.run_id, "model_uri": result.model_uri}
        print_json(
            whole | {"seconds": result.seconds, "unsent": result.unsent, "best_seed": result.best, "quality": documents}
        )
    else:
        click.echo(result.decomposition)
        print_table(["seed", *_header(documents)], _rows(documents, result.best), err=True)
    folder = near(result.decomposition)
    tell_unsent(result.unsent, result.decomposition)
    logged = f", logged as {result.model_uri}" if result.model_uri else ""
    did = f"Decomposed into {folder} in {duration(result.seconds)} ({counted(len(documents), 'seed')}){logged}"
    talk(f"{did}. Next: {_fit_line(config, overrides, result.decomposition)}")


def _header(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    known = ["matched", "broken"] if "matched" in documents[0] else []
    return [*(name for name, key in COLUMNS.items() if key in documents[0]), *known]


def _rows(documents: Sequence[Mapping[str, Any]], best: int) -> list[list[str]]:
    """A row per seed, of its first variant."""
    rows = []
    for document in documents:
        seed = f"{document['seed']}{' (best)' if document['seed'] == best and len(documents) > 1 else ''}"
        cells = [format(document[key], FORMATS.get(key, ".4g")) for key in COLUMNS.values() if key in document]
        if "matched" in document:
            cells += [f"{document['matched']} of {document['mechanisms']}", "yes" if document["broken"] else "no"]
        rows.append([seed, *cells])
    return rows


def _fit_line(config: Path, overrides: Sequence[str], decomposition: Path) -> str:
    """The config's own overrides stay, but for those of the decomposition; a path in a config starts at the config."""
    folder = config.resolve().parent
    place = decomposition.relative_to(folder) if decomposition.is_relative_to(folder) else decomposition
    kept = [o for o in overrides if o.partition("=")[0].partition(".")[0].strip() != "decomposition"]
    taken = f"decomposition={json.dumps({'from': str(place)})}"
    return command_line(
        "madpipe", "fit", config, *(word for o in [*kept, taken] for word in ("--set", o)), "-o", "pipeline"
    )
