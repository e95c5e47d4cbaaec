"""`madpipe promote`: a registered version -> the champion of its name."""

import click

from madpipe.cli.options import examples, json_option, tracking_uri_option, trust_code_option
from madpipe.cli.printing import command_line, counted, print_json, talk

EXAMPLES = examples(
    "madpipe promote digits @candidate --trust-code",
    "madpipe promote digits @candidate --if-better auroc --trust-code",
    "madpipe promote digits 3 --trust-code --json",
)


HIGHER_IS_BETTER = ("auroc", "average_precision", "tpr_at_1", "tpr_at_5")


@click.command(epilog=EXAMPLES)
@click.argument("name")
@click.argument("version", metavar="VERSION|@ALIAS")
@click.option(
    "--if-better",
    metavar="METRIC",
    type=click.Choice(HIGHER_IS_BETTER),
    help=f"Only if the newest 'madpipe evaluate --log' of the version shows more of it than the champion's on the same "
    f"data; otherwise the champion stays, and that is no failure. {', '.join(HIGHER_IS_BETTER)}.",
)
@trust_code_option
@tracking_uri_option
@json_option
def promote(
    name: str, version: str, if_better: str | None, trust_code: bool, tracking_uri: str | None, as_json: bool
) -> None:
    """Make a registered version the champion.

    The version is loaded anew and scores the example stored with it. Scores that differ from those noted at
    registration by more than 1e-5, relative, end with 4, and the champion stays. An older version goes back the same
    way.
    """
    from madpipe.workflows.promote import promote as promote_version

    made = promote_version(name, version, if_better=if_better, trust_code=trust_code, tracking_uri=tracking_uri)
    if as_json:
        print_json(made)
    else:
        click.echo(f"{name}: champion {made['previous'] or 'none'} -> {made['version']}")
    following = command_line("madpipe", "score", "--pipeline", f"models:/{name}@champion", "--trust-code", "new.npz")
    if "example_rows" not in made:
        compared = made["compared"]
        figures = f"{compared['metric']} {compared['value']:.4f} is not above {compared['champion_value']:.4f}"
        talk(f"The champion stays: version {compared['version']}'s {figures}. Next: {following}")
        return
    did = f"Scored {counted(made['example_rows'], 'stored input')} of version {made['version']} as at registration"
    talk(f"{did}. Next: {following}")
