"""The command line answers at once: help and usage errors import click and nothing heavier."""

import json
import subprocess
import sys

PROGRAM = """
import contextlib, io, json, sys
before = set(sys.modules)
import click
from madpipe.cli.main import group, main

def paths(command, context):
    yield context.command_path.split()[1:]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            yield from paths(inner, click.Context(inner, info_name=name, parent=context))

lines = [[*path, "--help"] for path in paths(group, click.Context(group, info_name="madpipe"))]
lines += [["--version"], ["scroe"], ["fit"], ["score", "--pipeline", "p", "a.npz", "-o", "a.txt"]]
lines += [["completion", "fish"]]
for line in lines:
    nowhere = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main(line)
print(json.dumps([len(lines), sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""


def test_help_and_usage_errors_import_nothing_but_click():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    line_count, imported = json.loads(done.stdout)
    assert line_count >= 16
    foreign = set(imported) - sys.stdlib_module_names - {"click", "madpipe"}
    assert not foreign, foreign
