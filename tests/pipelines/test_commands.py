"""Every `madpipe` command in pipelines/ is one that madpipe has, and no file there holds a password or a registry."""

import re
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from madpipe.cli.main import group

FOLDER = Path(__file__).resolve().parents[2] / "pipelines"
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
KINDS = ("airflow", "argo", "compose", "kubernetes", "mlproject", "slurm")
PASSWORD = re.compile(r"(?i)password\w*[\"']?[ \t]*[:=][ \t]*(\S+)")
REGISTRY = re.compile(r"[\w-]+\.(?:io|com|org|net|dev)(?::\d+)?/[\w./-]+:[\w.-]+")


def parse(words: Sequence[str]) -> None:
    """UsageError where madpipe would refuse the words before it looks at any file."""
    context = click.Context(group, info_name="madpipe")
    name, verb, rest = group.resolve_command(context, list(words))
    assert verb is not None
    verb.make_context(name, rest, parent=context)


def test_it_is_a_command_line_that_madpipe_takes(command):
    parse(command.words)


@pytest.mark.parametrize(
    "words", [["scroe"], ["score", "--pipline", "p", "new.npz"], ["score", "new.npz"], ["fit", "a.yaml", "b.yaml"]]
)
def test_a_wrong_command_is_seen(words: list[str]):
    with pytest.raises(click.UsageError):
        parse(words)


def test_the_folders_are_those_that_the_readme_speaks_of():
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == sorted(KINDS)
    text = (FOLDER / "README.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}/`" not in text] == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_folder_has_a_readme_that_fits_a_screen(kind: str):
    assert len((FOLDER / kind / "README.md").read_text().splitlines()) <= 40


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_no_password_and_no_registry_is_written_down(file: Path):
    text = file.read_text()
    literal = [value for value in PASSWORD.findall(text) if not value.startswith(("$", "...", "/run/secrets/"))]
    assert literal == []
    assert REGISTRY.findall(text) == []
