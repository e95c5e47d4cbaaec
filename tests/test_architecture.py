"""The house plan, as a test: which room may open a door to which, which library lives where, how large things may grow.

The tables below are the plan that docs/design.md tells in words. Files are found when the tests are collected, so a new
file is held to the plan without a line here.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePath

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "madpipe"
GROUND = {"errors", "registry", "config", "archives"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors"},
    "config": {"errors", "registry"},
    "archives": {"errors"},
    "data": GROUND,
    "targets": GROUND,
    "tasks": GROUND | {"data", "targets"},
    "components": GROUND,
    "decomposition": GROUND | {"components", "data"},
    "patterns": GROUND | {"components", "decomposition", "data"},
    "detectors": GROUND,  # sees arrays only: never a model, never a tensor
    "scores": GROUND,
    "score_files": GROUND | {"scores"},
    "evaluation": GROUND | {"scores"},
    "editing": GROUND | {"components", "decomposition", "patterns", "scores"},
    "reporting": GROUND | {"scores", "evaluation"},
    "pipeline": GROUND | {"data", "targets", "components", "decomposition", "patterns", "detectors", "scores"},
    "tracking": GROUND | {"pipeline", "scores", "data"},
}
MAY_IMPORT["workflows"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = GROUND | {"scores", "workflows"}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set()

# A home is a room or one file of it; a library is also known by the dotted names that bring it in.
TENSOR_ROOMS = {
    "data",
    "targets",
    "tasks",
    "components",
    "decomposition",
    "patterns",
    "pipeline",
    "editing",
    "tracking",
}
LIGHTNING_HOMES = {"decomposition/training.py", "targets/pretrain.py", "tracking"}
LIVES_IN: dict[str, set[str]] = {
    "torch": TENSOR_ROOMS,
    "safetensors.torch": TENSOR_ROOMS,
    "lightning": LIGHTNING_HOMES,
    "pytorch_lightning": LIGHTNING_HOMES,
    "sklearn": {"detectors", "evaluation", "tasks"},
    "mlflow": {"tracking"},
    "uvicorn": {"tracking"},
    "matplotlib": {"reporting"},
    "click": {"cli"},
}
TABLES = {"METHODS": "decomposition", "EXTRACTORS": "patterns", "DETECTORS": "detectors", "TASKS": "tasks"}

NO_DUMPING_GROUND = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_A_FUNCTION = 50
MOST_LINES_IN_A_WORKFLOW = 169  # one function per verb, which names its steps in order

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("madpipe", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def room_of(file: PurePath) -> str:
    """The first folder of a path relative to the package, or the name of a file that lies beside the rooms."""
    return file.with_suffix("").parts[0]


def imported(source: str) -> set[str]:
    """Every dotted name imported, inside functions too: `from a.b import c` gives a.b.c, a relative import `.`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases}
            case ast.ImportFrom(level=level, module=module, names=aliases):
                names |= {"." if level else f"{module}.{alias.name}" for alias in aliases}
    return names


def own_modules(source: str) -> set[str]:
    """The modules of madpipe that a file imports: of each name, the longest beginning that is a module."""
    modules = set()
    for name in imported(source):
        parts = name.split(".")
        if parts[0] == "madpipe":
            beginnings = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
            modules.add(next(beginning for beginning in beginnings if beginning in MODULES))
    return modules


def closed_doors(file: PurePath, source: str) -> set[str]:
    """Rooms that a file imports from and may not."""
    here = room_of(file)
    rooms = {module.split(".")[1] for module in own_modules(source) if "." in module}
    return rooms - {here} - MAY_IMPORT[here]


def strayed_libraries(file: PurePath, source: str) -> set[str]:
    """Libraries that a file imports and that live elsewhere."""
    return {
        library
        for library, homes in LIVES_IN.items()
        if any(f"{name}.".startswith(f"{library}.") for name in imported(source))
        and homes.isdisjoint({room_of(file), file.as_posix()})
    }


def overlong_functions(file: PurePath, source: str) -> list[str]:
    most = MOST_LINES_IN_A_WORKFLOW if room_of(file) == "workflows" else MOST_LINES_IN_A_FUNCTION
    return [
        f"{node.name} has {length} lines, {most} are allowed"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > most
    ]


def first_cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def registry_entries() -> list[tuple[str, str, str]]:
    """(table, name, "module:Class") of every plug-in, read from the registry's source: nothing is imported."""
    found = []
    for node in ast.parse((PACKAGE / "registry.py").read_text()).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=table)], value=ast.Call(func=ast.Name(id="Table"), args=[*_, entries])
            ):
                found += [(table, name, target) for name, target in ast.literal_eval(entries).items()]
    return found


def test_the_plan_has_no_cycle():
    assert not first_cycle(MAY_IMPORT)


@each_file
def test_a_file_lies_in_a_room_of_the_plan(path: Path):
    assert room_of(path.relative_to(PACKAGE)) in MAY_IMPORT, "a new room needs a line in MAY_IMPORT"


@each_file
def test_a_room_keeps_its_doors(path: Path):
    assert not closed_doors(path.relative_to(PACKAGE), path.read_text())


@each_file
def test_a_library_stays_in_its_rooms(path: Path):
    assert not strayed_libraries(path.relative_to(PACKAGE), path.read_text())


@each_file
def test_imports_are_absolute(path: Path):
    assert "." not in imported(path.read_text()), "write the full name, madpipe.x.y, not a relative import"


@each_file
def test_a_file_has_one_purpose(path: Path):
    assert len(path.read_text().splitlines()) <= MOST_LINES_IN_A_FILE
    assert NO_DUMPING_GROUND.isdisjoint(path.relative_to(PACKAGE).with_suffix("").parts)
    assert ast.get_docstring(ast.parse(path.read_text())), "say in one line what this file is for"


@each_file
def test_functions_are_short(path: Path):
    assert not overlong_functions(path.relative_to(PACKAGE), path.read_text())


@pytest.mark.parametrize("path", [p for p in FILES if p.stem == "__init__"], ids=lambda p: p.parent.name)
def test_a_package_file_passes_nothing_on(path: Path):
    tops = {name.split(".")[0] for name in imported(path.read_text())}
    assert tops <= sys.stdlib_module_names, "import from the file that holds the thing"


def test_modules_import_one_another_without_a_cycle():
    graph = {module: own_modules(path.read_text()) - {module} for module, path in MODULES.items()}
    assert not first_cycle(graph)


def test_every_plug_in_table_is_read():
    assert {table for table, _, _ in registry_entries()} == set(TABLES)


@pytest.mark.parametrize(("table", "name", "target"), registry_entries(), ids=lambda value: value)
def test_a_plug_in_is_one_file_in_its_room(table: str, name: str, target: str):
    module, _, attribute = target.partition(":")
    assert module.startswith(f"madpipe.{TABLES[table]}."), f"{table} holds plug-ins of {TABLES[table]}/"
    assert module in MODULES, f"{name}: there is no {module}"
    classes = {node.name for node in ast.parse(MODULES[module].read_text()).body if isinstance(node, ast.ClassDef)}
    assert attribute in classes, f"{name}: {module} has {sorted(classes)}"


@pytest.mark.parametrize(
    ("file", "line", "room"),
    [
        ("detectors/surprise.py", "from madpipe.components.model import ComponentModel", "components"),
        ("scores.py", "import madpipe.detectors.detector", "detectors"),
        ("errors.py", "def f():\n    from madpipe import registry", "registry"),
    ],
)
def test_a_closed_door_is_seen(file: str, line: str, room: str):
    assert closed_doors(PurePath(file), line) == {room}


@pytest.mark.parametrize(
    ("file", "line", "library"),
    [
        ("detectors/surprise.py", "from torch import nn", "torch"),
        ("scores.py", "def f():\n    import safetensors.torch", "safetensors.torch"),
        ("decomposition/spd.py", "from lightning.pytorch import Trainer", "lightning"),
        ("workflows/fit.py", "import click", "click"),
    ],
)
def test_a_strayed_library_is_seen(file: str, line: str, library: str):
    assert strayed_libraries(PurePath(file), line) == {library}


def test_a_library_may_live_in_one_file_of_a_room():
    assert not strayed_libraries(PurePath("decomposition/training.py"), "import lightning")


def test_a_relative_import_is_seen():
    assert imported("from . import model") == {"."}


def test_a_cycle_is_seen():
    assert set(first_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_a_function_of_51_lines_is_too_long():
    source = "def f():\n" + "    pass\n" * 50  # 1 + 50 = 51
    assert overlong_functions(PurePath("scores.py"), source) == ["f has 51 lines, 50 are allowed"]
    assert not overlong_functions(PurePath("workflows/fit.py"), source)
