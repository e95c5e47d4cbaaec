"""What lies in pipelines/: the commands that its files run, and documents of several kinds."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "pipelines"
# What the tools fill in, with a value in its place: ${NAME:-default}, $(NAME), {{ name }}, {name}.
FILLED_IN = (
    (r"\$\{\w+:-([^}]*)\}", r"\1"),
    (r"\$\{\w+:\?[^}]*\}", "given"),
    (r"\$\((\w+)\)", "0"),
    (r"\{\{[^}]*\}\}", "given"),
    (r"\{\w+\}", "given"),
    (r"\$(?:SLURM_\w+|\d)", "0"),
    (r"\$\(id -[ug]\)|\$PWD", "given"),
)


@dataclass(frozen=True)
class Command:
    """`words` follow `madpipe`; `file` and `where` say whose command it is."""

    file: Path
    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file.relative_to(FOLDER)}:{self.where}"


def filled_in(text: str) -> str:
    for pattern, value in FILLED_IN:
        text = re.sub(pattern, value, text)
    return text


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document that describes a container: of a Pod, a Job, a CronJob, a workflow's template."""
    if isinstance(node, dict):
        if isinstance(node.get("args"), list):  # the arguments of an image's build are a mapping
            yield node
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


def _of_yaml(file: Path) -> Iterator[Command]:
    for document in documents(file):
        for name, service in document.get("services", {}).items():
            if "command" in service and "entrypoint" not in service:
                yield Command(file, name, tuple(filled_in(word) for word in service["command"]))
        for container in containers(document):
            yield Command(file, container["args"][0], tuple(filled_in(str(word)) for word in container["args"]))


def _of_bash_operators(file: Path) -> Iterator[Command]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "bash_command":
            assert isinstance(node.value, ast.Constant), "a task is one command, written out"
            yield _of_line(file, node.value.value)


def _of_project(file: Path) -> Iterator[Command]:
    for entry in yaml.safe_load(file.read_text())["entry_points"].values():
        yield _of_line(file, entry["command"])


def _of_line(file: Path, line: str) -> Command:
    program, *words = shlex.split(filled_in(line), comments=True)
    assert program == "madpipe", line
    return Command(file, words[0], tuple(words))


def _of_text(file: Path) -> Iterator[Command]:
    """Examples (indented lines in Markdown, all in a shell script) in which `madpipe VERB` or its image is called."""
    lines = re.sub(r"\\\n\s*", "", file.read_text()).splitlines()
    for number, line in enumerate(lines, 1):
        example = line.startswith("    ") if file.suffix == ".md" else line.lstrip("# \t")
        found = re.search(r"(?<![\w/.=-])madpipe ([a-z].*)", line)
        if example and found and not re.search(r"(?:docker compose|-t|job-name=\S*) *madpipe", line):
            words = shlex.split(filled_in(found[1]), comments=True)
            yield Command(file, f"{number}-{words[0]}", tuple(words))


READERS = {".yaml": _of_yaml, ".py": _of_bash_operators, ".md": _of_text, ".sbatch": _of_text, "": _of_project}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `command` runs once for every command in every file of pipelines/."""
    if "command" in metafunc.fixturenames:
        files = sorted(path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        commands = [command for file in files for command in READERS[file.suffix](file)]
        metafunc.parametrize("command", commands, ids=str)
