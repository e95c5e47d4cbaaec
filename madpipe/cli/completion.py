"""`madpipe completion`: a script that lets the shell complete commands, options and paths."""

import click
from click.shell_completion import get_completion_class

from madpipe.cli.options import examples

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = examples(
    "madpipe completion bash > ~/.local/share/bash-completion/completions/madpipe",
    "madpipe completion zsh > ~/.zfunc/_madpipe",
    "madpipe completion fish > ~/.config/fish/completions/madpipe.fish",
)


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    A new shell reads it. To try it in this one: eval "$(madpipe completion bash)" (zsh the same), or
    madpipe completion fish | source.
    """
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(root.command, {}, "madpipe", "_MADPIPE_COMPLETE").source())
