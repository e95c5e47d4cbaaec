"""The `decomposition` section: what cannot be meant ends with one line, and what a task suggests gives way to the user.

Both for `fit` and for `decompose`, through the command line, with the plug-ins that madpipe lists.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from madpipe.config.loading import load_config
from madpipe.config.resolving import method_of, resolved, taken_of
from madpipe.registry import METHODS, TASKS
from madpipe.tasks.superposition import SuperpositionTask
from madpipe.tracking.runs import open_store

UNTRACKED = ("--set", "tracking.enabled=false")


@pytest.fixture
def folder(tmp_path: Path, write_own_model, monkeypatch) -> Path:
    """The user's folder, and the current one."""
    made = tmp_path / "mine"
    made.mkdir()
    monkeypatch.chdir(made)
    return write_own_model(made)


@pytest.fixture
def refused(madpipe, folder: Path) -> Callable[..., str]:
    """Run a verb that must fail with `code`: its one line, once nothing was written by it."""

    def run(code: int, verb: str, *settings: str) -> str:
        before = sorted(path for path in folder.rglob("*"))
        words = [word for setting in settings for word in ("--set", setting)]
        ended = madpipe(verb, "config.yaml", "-o", "out", *UNTRACKED, *words)
        assert (ended.code, ended.out) == (code, ""), ended.err
        assert ended.err.count("\n") == 1, ended.err
        assert sorted(path for path in folder.rglob("*")) == before
        return ended.err.removeprefix("madpipe: ").rstrip("\n")

    return run


# What cannot be trained


@pytest.mark.parametrize("verb", ["decompose", "fit"])
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("components=0", "decomposition.components: should be at least 1, and is 0."),
        ("components=-3", "decomposition.components: should be at least 1, and is -3."),
        ("components=many", "decomposition.components: should be a valid integer"),
        ("components=2.5", "decomposition.components: should be a valid integer"),
        ("seeds=0", "decomposition.seeds: should be at least 1, and is 0."),
        ("seeds=-1", "decomposition.seeds: should be at least 1, and is -1."),
        ("seeds=null", "decomposition.seeds: should be a valid integer, and is None."),
        ("steps=0", "decomposition.steps: should be at least 1, and is 0."),
        ("batch_size=0", "decomposition.batch_size: should be at least 1, and is 0."),
        ("learning_rate=0", "decomposition.learning_rate: should be a number above 0, and is 0.0."),
        ("learning_rate=.nan", "decomposition.learning_rate: should be a number above 0, and is nan."),
        ("learning_rate=.inf", "decomposition.learning_rate: should be a number above 0, and is inf."),
        ("variants=[]", "decomposition.variants: needs one or more, each with a name of its own"),
        ("variants=[{name: a}, {name: a}]", "decomposition.variants: needs one or more, each with a name of its own"),
        ("variants=[{name: a/b}]", "decomposition.variants: needs one or more, each with a name of its own"),
        ("seed=3", "decomposition.seed: no such key. Did you mean 'seeds'?"),
        ("select=1", "decomposition.select: no such key."),
    ],
)
def test_settings_that_cannot_be_meant_end_with_2_and_name_the_key(refused, verb, setting, said):
    line = refused(2, verb, f"decomposition.{setting}")
    assert line.startswith("config.yaml: ")
    assert said in line


@pytest.mark.parametrize("key", ["components", "rank", "seeds", "steps"])
def test_limits_hold_for_every_method(refused, key):
    line = refused(2, "decompose", "decomposition.method=apd", f"decomposition.{key}=0")
    assert f"decomposition.{key}: should be at least 1, and is 0." in line


def test_decompose_has_nothing_to_take(refused):
    line = refused(2, "decompose", "decomposition={from: it}")
    assert line == "decomposition.from: decompose trains a decomposition; name a method in its place."


# What cannot be taken


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{from: it, method: spd}", "so 'method' cannot stand beside it; only 'select' can."),
        ("{from: it, steps: 5}", "so 'steps' cannot stand beside it; only 'select' can."),
        ("{from: it, selct: 1}", "so 'selct' cannot stand beside it; only 'select' can."),
        ("{from: it, select: -1}", "decomposition.select: should be greater than or equal to 0, and is -1."),
        ("{from: it, select: best}", "decomposition.select: should be a valid integer"),
        ("{from: 3}", "decomposition.from: should be a valid string, and is 3."),
        ("{from: null}", "decomposition.from: should be a valid string, and is None."),
        ("{from: ''}", "decomposition.from: "),
    ],
)
def test_a_section_with_from_that_cannot_be_meant_ends_with_2(refused, section, said):
    line = refused(2, "fit", f"decomposition={section}")
    assert line.startswith("config.yaml: decomposition")
    assert said in line


@pytest.mark.parametrize("place", ["nowhere", "config.yaml", "."])
def test_a_place_that_is_no_decomposition_ends_with_2(refused, folder, place):
    line = refused(2, "fit", f"decomposition={{from: {place}}}")
    assert line.startswith(f"{folder / place} is no decomposition folder: it has no manifest.json.")


def test_a_seed_that_was_not_trained_ends_with_2(refused, folder, decomposed):
    line = refused(2, "fit", f"decomposition={{from: '{decomposed.path}', select: 3}}")
    assert line == f"decomposition.select: {decomposed.path} has the seeds 0 to 2, and no seed 3."


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("target.weights=other.safetensors", "is of another network: its weights have the digest"),
        ("target.sites=['2']", "has the sites 0, 2, and target.sites asks for 2; decompose again."),
        ("target.output=regression", "is for categorical outputs, and target.output is regression; decompose again."),
    ],
)
def test_a_decomposition_of_something_else_ends_with_4(refused, folder, decomposed, setting, said):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "weights.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, folder / "other.safetensors")
    line = refused(4, "fit", f"decomposition={{from: '{decomposed.path}'}}", setting)
    assert line.startswith(f"decomposition.from: {decomposed.path} ")
    assert said in line


def test_an_altered_decomposition_ends_with_4(refused, folder, decomposed):
    shutil.copytree(decomposed.path, folder / "it")
    path = folder / "it" / "components" / "components.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(4, "fit", "decomposition={from: it}").startswith(f"{path}: altered")


def test_a_member_that_reads_what_a_taken_decomposition_lacks_is_found_before_fitting(refused, decomposed):
    member = "{detector: standardised_mean, patterns: reconstruction, features: ['*_third']}"
    section = f"decomposition={{from: '{decomposed.path}'}}"
    line = refused(2, "fit", section, f"detectors.members={{a: {member}}}")
    assert line.startswith("detectors.members.a.features: no feature matches '*_third'.")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("runs:/0123456789abcdef0123456789abcdef/decomposition", "no run '0123456789abcdef0123456789abcdef'"),
        ("models:/m-0123", "no logged model 'm-0123' in this store."),
        ("models:/nobody@champion", "no registered model named 'nobody'."),
    ],
)
def test_an_address_in_mlflow_that_is_not_there_ends_with_2(refused, decomposed, address, said):
    line = refused(2, "fit", f"decomposition={{from: '{address}'}}", f"tracking.tracking_uri={decomposed.store_uri}")
    assert said in line


def test_a_model_that_is_no_decomposition_ends_with_2(refused, decomposed, tmp_path):
    shutil.copy(decomposed.folder / "mlflow.db", tmp_path)
    store = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "other")
    with store.run("of something else", "detector") as run:
        run.model("pipeline")
    address = f"runs:/{run.id}/pipeline"
    line = refused(2, "fit", f"decomposition={{from: '{address}'}}", f"tracking.tracking_uri={store.uri}")
    assert line.startswith(f"{address} holds no decomposition folder; 'madpipe decompose' logs one")


# What a section means


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_section_with_from_is_shown_as_it_is_and_means_the_same_again(madpipe, tmp_path):
    path = written(tmp_path / "x.yaml", "task: {name: superposition}\ndecomposition: {from: it}\n")
    ended = madpipe("config", "show", path)
    assert yaml.safe_load(ended.out)["decomposition"] == {"from": "it", "select": None}
    again = written(tmp_path / "again.yaml", ended.out)
    assert resolved(load_config(again)) == yaml.safe_load(ended.out)
    assert taken_of(load_config(again)).source == "it"
    assert "task superposition, decomposition from it, " in madpipe("config", "validate", path).err


def test_the_schema_knows_from_and_select(madpipe):
    schema = json.loads(madpipe("config", "schema").out)
    assert {"$ref": "#/$defs/TakenDecomposition"} in schema["properties"]["decomposition"]["anyOf"]
    assert set(schema["$defs"]["TakenDecomposition"]["properties"]) == {"from", "select"}
    assert "seeds" in schema["$defs"]["method.apd"]["properties"]


@pytest.mark.parametrize("task", list(TASKS))
def test_what_a_task_suggests_is_known_to_its_method(task):
    for method, settings in getattr(TASKS.load(task), "decomposition_defaults", {}).items():
        METHODS.load(method).Config.model_validate(settings)


@pytest.fixture
def suggested(monkeypatch, tmp_path) -> Path:
    """A config of a task that suggests 77 steps of spd and a rate for apd."""
    suggestions = {"spd": {"steps": 77, "components": 9}, "apd": {"learning_rate": 0.5}}
    monkeypatch.setattr(SuperpositionTask, "decomposition_defaults", suggestions, raising=False)
    return written(tmp_path / "x.yaml", "task: {name: superposition}\n")


def test_show_prints_what_a_task_suggests(madpipe, suggested):
    shown = yaml.safe_load(madpipe("config", "show", suggested).out)["decomposition"]
    assert (shown["method"], shown["steps"], shown["components"]) == ("spd", 77, 9)
    assert shown["learning_rate"] == METHODS.load("spd").Config().learning_rate


def test_what_the_user_says_wins_over_what_a_task_suggests(suggested):
    suggested.write_text("task: {name: superposition}\ndecomposition: {steps: 5, components: null}\n")
    config = method_of(load_config(suggested))[1]
    assert (config.steps, config.components) == (5, None)
    assert method_of(load_config(suggested, ["decomposition.steps=6"]))[1].steps == 6


def test_another_method_has_suggestions_of_its_own(suggested):
    chosen, config = method_of(load_config(suggested, ["decomposition.method=apd"]))
    assert (chosen.name, config.learning_rate) == ("apd", 0.5)
    assert config.steps == chosen.Config().steps


def test_a_resolved_config_keeps_its_values_when_suggestions_change(suggested, monkeypatch, tmp_path):
    whole = resolved(load_config(suggested))
    monkeypatch.setattr(SuperpositionTask, "decomposition_defaults", {"spd": {"steps": 1}})
    assert resolved(load_config(written(tmp_path / "whole.yaml", yaml.safe_dump(whole)))) == whole


def test_suggestions_are_for_tasks_alone(suggested, tmp_path):
    own = written(tmp_path / "own.yaml", "target: {factory: 'm.py:build'}\ndata: {trusted: t.npz}\n")
    assert method_of(load_config(own))[1] == METHODS.load("spd").Config()
