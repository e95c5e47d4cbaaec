"""The group: what it lists, what it suggests, and that its examples are commands."""

import re
import shlex

import click
import pytest

from madpipe import __version__
from madpipe.cli.main import COMMANDS, group


def all_commands(command: click.Command, context: click.Context):
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            yield from all_commands(inner, click.Context(inner, info_name=name, parent=context))


EVERY_COMMAND = dict(all_commands(group, click.Context(group, info_name="madpipe")))


def example_lines(command: click.Command) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  madpipe ")]


@pytest.mark.parametrize("path", EVERY_COMMAND)
def test_help_shows_two_examples(madpipe, path):
    ended = madpipe(*path.split()[1:], "--help")
    assert ended.code == 0
    assert ended.err == ""
    lines = example_lines(EVERY_COMMAND[path])
    assert len(lines) >= 2
    assert all(line in ended.out for line in lines)


@pytest.mark.parametrize("line", {line: None for command in EVERY_COMMAND.values() for line in example_lines(command)})
def test_an_example_in_the_help_can_be_parsed(monkeypatch, line):
    monkeypatch.setattr(click.Command, "invoke", lambda command, context: None)
    for part in re.split(r"&&|[|>]", line):
        words = shlex.split(part)
        if words[0] == "madpipe":
            group.main(words[1:], standalone_mode=False)


@pytest.mark.parametrize("path", EVERY_COMMAND)
def test_no_line_of_a_command_list_is_cut(madpipe, path):
    if isinstance(EVERY_COMMAND[path], click.Group):
        assert "..." not in madpipe(*path.split()[1:], "--help").out.replace("ARGS]...", "")


def test_help_lists_the_commands_in_the_order_of_their_use(madpipe):
    listed = madpipe("--help").out.partition("Commands:")[2].partition("Examples:")[0]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == list(COMMANDS)


def test_version_is_the_packages(madpipe):
    assert madpipe("--version").out == f"madpipe {__version__}\n"


def test_no_arguments_show_the_help_and_end_with_2(madpipe):
    ended = madpipe()
    assert ended.code == 2
    assert ended.out == ""
    assert "Commands:" in ended.err


def test_an_unknown_command_is_told_with_the_nearest_one(madpipe):
    ended = madpipe("scroe", "x.npz")
    assert ended.code == 2
    known = ", ".join(sorted(COMMANDS))
    said = f"no command named 'scroe'. Did you mean 'score'? Known: {known}. Try 'madpipe --help'."
    assert ended.err == f"madpipe: {said}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", "exprt"], "export"),
        (["config", "sho"], "show"),
        (["fit", "x.yaml", "--overwrit"], "--overwrite"),
    ],
)
def test_an_unknown_subcommand_or_option_is_told_with_the_nearest_one(madpipe, arguments, said):
    ended = madpipe(*arguments)
    assert ended.code == 2
    assert ended.err.startswith("madpipe: no such ")
    assert f"'{said}'" in ended.err
    assert ended.err.count("\n") == 1


def test_a_missing_argument_is_one_line_with_the_command_whose_help_says_more(madpipe):
    assert madpipe("fit").err == "madpipe: missing argument 'CONFIG'. Try 'madpipe fit --help'.\n"
