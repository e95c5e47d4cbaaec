"""What is installed is what is declared: dependencies, lock, version, and the releases that must never come in."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import madpipe

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "madpipe").rglob("*.py"))
PYPROJECT_TEXT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT_TEXT)["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Where the names differ; pydantic itself pins pydantic_core, and its manual imports types from there.
DISTRIBUTION_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "pydantic_core": "pydantic"}
MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")  # GHSA-w37p-236h-pfx3
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
LOCK = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LOCK_LINES)}


def declared(requirements: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, requirements)}


CORE = declared(PROJECT["dependencies"])
OPTIONAL = declared([line for extra, lines in EXTRAS.items() if extra != "dev" for line in lines])
DEVELOPMENT = declared(EXTRAS["dev"])


def distributions(nodes: list[ast.AST]) -> set[str]:
    """The packages that the import statements among `nodes` need, without madpipe and the standard library."""
    tops: set[str] = set()
    for node in nodes:
        match node:
            case ast.Import(names=aliases):
                tops |= {alias.name.split(".")[0] for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                tops.add(module.split(".")[0])
    return {canonicalize_name(DISTRIBUTION_OF.get(top, top)) for top in tops - sys.stdlib_module_names - {"madpipe"}}


def lines_of_array(key: str) -> list[str]:
    """The entries of a TOML array that is written one entry a line, as they stand, with their comments."""
    body = re.search(rf"^{key} = \[\n(.*?)^\]", PYPROJECT_TEXT, re.MULTILINE | re.DOTALL)
    assert body, f"pyproject.toml has no array {key}"
    return [line.strip() for line in body[1].splitlines() if line.strip().startswith('"')]


each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT / "madpipe")))


@each_file
def test_what_a_file_imports_is_declared(path: Path):
    assert distributions(list(ast.walk(ast.parse(path.read_text())))) <= CORE.keys() | OPTIONAL.keys()


@each_file
def test_an_extra_is_imported_only_when_it_is_called(path: Path):
    assert distributions(ast.parse(path.read_text()).body) <= CORE.keys()


@pytest.mark.parametrize("requirement", [*CORE.values(), *DEVELOPMENT.values()], ids=str)
def test_the_lock_satisfies_the_range(requirement: Requirement):
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", OPTIONAL.values(), ids=str)
def test_an_extra_in_the_lock_satisfies_its_range(requirement: Requirement):
    version = LOCK.get(canonicalize_name(requirement.name))
    assert version is None or requirement.specifier.contains(version)


@pytest.mark.parametrize("line", LOCK_LINES)
def test_the_lock_holds_exact_public_versions_only(line: str):
    name, version = line.split("==")
    assert Version(version).local is None, f"{name}: a local build is not everywhere to be had"


def test_the_lock_pins_the_torch_that_continuous_integration_has():
    assert LOCK["torch"] == "2.13.0"


@pytest.mark.parametrize("version", MALICIOUS_LIGHTNING)
def test_the_malicious_lightning_releases_are_refused(version: str):
    assert not CORE["lightning"].specifier.contains(version, prereleases=True)
    assert LOCK["lightning"] != version
    assert LOCK["pytorch-lightning"] != version


@pytest.mark.parametrize("line", lines_of_array("dependencies") + lines_of_array("dev"))
def test_a_range_carries_its_reason(line: str):
    assert re.search(r'",\s+# \w', line)


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "requirements.lock", "Makefile", "Dockerfile", ".ci/run", ".pre-commit-config.yaml"]
)
def test_no_file_names_a_package_index(name: str):
    assert not re.search(r"--(extra-)?index-url(?! \"\$)|^-i |pypi\.org|download\.pytorch", (ROOT / name).read_text())


def test_python_3_11_is_admitted():
    assert PROJECT["requires-python"] == ">=3.11"


def test_the_installed_version_is_the_packages_own():
    assert metadata.version("madpipe") == madpipe.__version__


def test_the_citation_names_the_version():
    assert f"\nversion: {madpipe.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_image_label_names_the_version():
    assert f'image.version="{madpipe.__version__}"' in (ROOT / "Dockerfile").read_text()


def test_the_changelog_has_a_section_for_the_version():
    assert f"\n## [{madpipe.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_says_it_is_typed():
    assert (ROOT / "madpipe" / "py.typed").is_file()


def test_the_console_script_points_to_a_function():
    module, _, function = PROJECT["scripts"]["madpipe"].partition(":")
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
