"""A config of a stranger: no tags, no expansion without bounds, nothing run by looking at it."""

from pathlib import Path

import pytest

from madpipe.config.loading import MOST_VALUES, load_config, parse_yaml

HOSTILE = """
import pathlib
pathlib.Path("canary").touch()

def build():
    pathlib.Path("canary").touch()
"""


def laughs(levels: int, of: str = "[{}]") -> str:
    """Each line holds the one before nine times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + of.format(", ".join([f"*a{i - 1}"] * 9)) for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(12),
        laughs(12, "{{<<: [{}]}}"),
        "a: &a [*a, *a]",
        "a: &a {b: *a}",
        "? &a [*a]\n: 1",
        "[" * 200_000,
        "{a: " * 100_000,
        "- " * 100_000,
        '"\\UFFFFFFFF": 1',
        "seed: " + "9" * 5000,
        "seed: 1" + "_" * 100_000,
        "a" * (2**20 + 1),
        "%YAML 99.9\n---\na: 1",
        "<<: 5",
        "? {a: 1}\n: 2",
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_would_grow_or_hang_is_refused(text, tmp_path, refusal):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert str(path) in refusal(2, lambda: load_config(path))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [{}]",
        "!!python/object/new:pathlib.Path [{}]",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!binary aGk=",
        "!<tag:yaml.org,2002:python/object/apply:os.system> [{}]",
        "!local x",
    ],
)
def test_tags_are_refused_and_nothing_is_built(tag, tmp_path, canary, refusal):
    path = tmp_path / "config.yaml"
    path.write_text(f"task: {tag.format(canary)}")
    assert "tags are refused" in refusal(2, lambda: load_config(path))


def test_an_override_is_read_as_strictly_as_the_file(tmp_path, refusal):
    path = tmp_path / "config.yaml"
    path.write_text("task: {name: digits}")
    refusal(2, lambda: load_config(path, ["task=" + "[" * 20_000]))
    refusal(2, lambda: load_config(path, ["task.name=!!python/name:os.system ''"]))


def test_anchors_that_stay_small_are_written_out():
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]", "it") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert len(parse_yaml("[" + "1," * (MOST_VALUES // 2) + "]", "it")) == MOST_VALUES // 2


@pytest.fixture
def hostile_config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(HOSTILE)
    (tmp_path / "config.yaml").write_text(
        "target: {factory: model.py:build, output: categorical}\ndata: {trusted: ../../../etc/hostname.npz}\n"
    )
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("verb", ["show", "validate"])
def test_looking_at_a_config_runs_nothing(verb, hostile_config, canary, madpipe):
    assert madpipe("config", verb, hostile_config).code == 0
    assert not canary.exists()


def test_a_path_in_a_config_may_lead_anywhere_and_is_named_when_nothing_is_there(hostile_config, madpipe):
    """The config is its reader's own word: `../` is no offence, and what a file holds is never shown."""
    ended = madpipe("fit", hostile_config, "-o", "out", "--set", "tracking.enabled=false")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/b", "..", "a\x00b"])
def test_names_that_become_files_cannot_leave_their_folder(name, tmp_path, refusal):
    import json

    path = tmp_path / "config.yaml"
    members = json.dumps({name: {"detector": "mahalanobis", "patterns": "outputs"}})
    path.write_text(f"task: {{name: digits}}\ndetectors: {{members: {members}}}\n")
    refusal(2, lambda: load_config(path))
