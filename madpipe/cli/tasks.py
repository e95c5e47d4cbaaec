"""`madpipe tasks`: the benchmark tasks, and one of them written out as an own model with its data."""

from pathlib import Path

import click

from madpipe.cli.options import FILE, examples, json_option
from madpipe.cli.printing import command_line, counted, print_json, talk


@click.group(
    invoke_without_command=True,
    epilog=examples("madpipe tasks", "madpipe tasks export digits-conj-cnn-0 demo"),
)
@click.pass_context
def tasks(context: click.Context) -> None:
    """List the benchmark tasks, or export one. Without a command: list."""
    if context.invoked_subcommand is None:
        context.invoke(list_)


@tasks.command("list", epilog=examples("madpipe tasks list", "madpipe tasks list --json"))
@json_option
def list_(as_json: bool = False) -> None:
    """Print the name of every task, with a line on each."""
    from madpipe.workflows.tasks import list_tasks

    listed = list_tasks()
    if as_json:
        print_json({"tasks": [{"name": name, "description": line} for name, line in listed]})
    else:
        for name, line in listed:
            click.echo(f"{name:<{max(len(other) for other, _ in listed)}}  {line}")
    first = listed[0][0] if listed else "TASK"
    talk(f"{counted(len(listed), 'task')}. Next: {command_line('madpipe', 'tasks', 'export', first, 'demo')}")


@tasks.command(
    epilog=examples(
        "madpipe tasks export digits-conj-cnn-0 demo && madpipe fit demo/config.yaml",
        "madpipe tasks export digits-conj-cnn-0 demo --overwrite",
    )
)
@click.argument("task")
@click.argument("folder", type=FILE, metavar="DIR")
@click.option("--overwrite", is_flag=True, help="Replace an existing DIR.")
def export(task: str, folder: Path, overwrite: bool) -> None:
    """Write a task to a folder as if it were your own work.

    DIR then holds model.py, weights, trusted and test data and a config.yaml.
    """
    from madpipe.workflows.tasks import export_task

    files = export_task(task, folder, overwrite=overwrite, report=talk)
    click.echo(folder)
    talk(
        f"Exported {task} -> {folder} ({', '.join(files)})."
        f" Next: {command_line('madpipe', 'fit', folder / 'config.yaml')}"
    )
