"""The config: what a file may say, what every wrong file is told, and what the defaults become."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from madpipe.config.loading import load_config
from madpipe.config.resolving import extractors_of, json_schema, method_of, resolved, task_of
from madpipe.config.schema import DEFAULT_MEMBERS, PipelineConfig, TrackingConfig
from madpipe.errors import ConfigError, MissingFileError, UnknownNameError
from madpipe.registry import DETECTORS, EXTRACTORS, METHODS, TASKS

OWN = "target: {factory: 'my_model.py:build'}\ndata: {trusted: trusted.npz}\n"
TASK = "task: {name: digits}\n"


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constant(Strict):
    value: float = 1.0


class Linear(Strict):
    start: float
    stop: float = 0.0


class FakeMethod:
    class Config(Strict):
        steps: int = 100
        learning_rate: float = 1e-3
        schedule: Constant | Linear = Constant()
        betas: tuple[float, ...] = (0.9, 0.99)


class FakeExtractor:
    class Config(Strict):
        pooling: str = "maximum"


class FakeTask:
    class Config(Strict):
        attack: str = "conj"
        seed: int = 0


class FakeDetector:
    def __init__(self, contamination: float = 0.01, neighbours: int = 5, inner: object = None):
        self.contamination, self.neighbours, self.inner = contamination, neighbours, inner


class FakeMemberDetector(FakeDetector):
    def __init__(self, contamination: float = 0.01, power: float = 0.0):
        self.contamination, self.power = contamination, power


@pytest.fixture(autouse=True)
def fake_plugins(monkeypatch):
    fakes = [
        (METHODS, FakeMethod, ("spd", "apd")),
        (EXTRACTORS, FakeExtractor, ("reconstruction", "inputs")),
        (TASKS, FakeTask, ("digits",)),
        (DETECTORS, FakeDetector, ("soft_maximum", "knn")),
        (DETECTORS, FakeMemberDetector, ("standardised_mean",)),  # with the option that the default members set
    ]
    for table in (METHODS, EXTRACTORS, TASKS, DETECTORS):
        entries = {name: f"{__name__}:{fake.__name__}" for of, fake, names in fakes if of is table for name in names}
        monkeypatch.setattr(table, "_entries", entries)


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str, *overrides: str) -> PipelineConfig:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return write_and_load


@pytest.fixture
def complaint(load, tmp_path):
    def message(text: str, *overrides: str) -> str:
        with pytest.raises((ConfigError, UnknownNameError)) as caught:
            load(text, *overrides)
        line = str(caught.value)
        assert "\n" not in line
        return line.removeprefix(f"{tmp_path / 'x.yaml'}: ")

    return message


# What a file may say


def test_ten_lines_for_an_own_model_are_enough(load):
    config = load(OWN)
    assert config.target.factory == "my_model.py:build"
    assert config.data.trusted == "trusted.npz"


def test_a_task_brings_its_own_target_and_data(load):
    config = load("task: {attack: xor, name: digits}\n")
    assert list(config.task.items()) == [("name", "digits"), ("attack", "xor")]
    assert config.target is config.data is None


def test_defaults_are_spd_on_a_cpu_with_four_reconstruction_members(load):
    config = load(TASK)
    assert config.decomposition == {"method": "spd"}
    assert config.patterns == {"reconstruction": {}}
    assert list(config.detectors.members) == list(DEFAULT_MEMBERS)
    assert {member.detector for member in config.detectors.members.values()} == {"standardised_mean"}
    assert config.detectors.combiner.detector == "soft_maximum"
    assert config.trainer.accelerator == "cpu"


def test_an_extractor_named_by_a_member_is_added_to_patterns(load):
    config = load(TASK + "detectors: {members: {raw: {detector: knn, patterns: inputs}}}\n")
    assert config.patterns == {"inputs": {}}


def test_a_bare_extractor_name_means_its_defaults(load):
    assert load(TASK + "patterns:\n  inputs:\n").patterns == {"inputs": {}, "reconstruction": {}}


def test_own_members_replace_the_default_ones(load):
    config = load(TASK + "detectors: {members: {only: {detector: knn, patterns: inputs}}}\n")
    assert list(config.detectors.members) == ["only"]


def test_a_section_whose_keys_are_all_commented_out_has_its_defaults(load):
    assert load(TASK + "scoring:\n  # top: 5\n").scoring.top == 3


def test_registering_is_written_register_in_the_file(load):
    assert load(TASK + "tracking: {register: false}\n").tracking.register_model is False


def test_the_config_is_frozen(load):
    with pytest.raises(ValidationError):
        load(TASK).seed = 3


def test_building_a_config_leaves_the_default_members_alone():
    before = yaml.safe_dump(DEFAULT_MEMBERS)
    PipelineConfig(task={"name": "digits"})
    assert yaml.safe_dump(DEFAULT_MEMBERS) == before


# YAML


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001", "'1e-4'", "+1E-4"])
def test_every_spelling_of_a_small_number_becomes_a_float_in_a_plugin(load, written):
    config = load(TASK + f"decomposition: {{learning_rate: {written}}}\n")
    assert method_of(config)[1].learning_rate == 1e-4


def test_a_small_number_is_a_float_among_detector_options_that_no_schema_reads(load):
    config = load(
        TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, options: {contamination: 1e-3}}}}\n"
    )
    assert config.detectors.members["a"].options == {"contamination": 0.001}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("12", 12),
        ("-3", -3),
        ("1_000", 1000),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1e3", -1000.0),
        (".inf", float("inf")),
        ("1.2.3", "1.2.3"),
        ("2026-11-01", "2026-11-01"),
        ("12:30:00", "12:30:00"),
        ("007", "007"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("true", True),
        ("null", None),
    ],
)
def test_plain_scalars_are_read_as_yaml_1_2_reads_them(load, written, read):
    value = load(OWN, f"target.kwargs.x={written}").target.kwargs["x"]
    assert value == read
    assert type(value) is type(read)


def test_a_time_limit_needs_no_quotes(load):
    assert load(TASK + "trainer: {max_time: 00:01:30:00}\n").trainer.max_time == "00:01:30:00"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("devices: 0", "trainer.devices"),
        ("devices: -2", "trainer.devices"),
        ("num_nodes: 0", "trainer.num_nodes"),
        ("strategy: fsdp", "trainer.strategy"),
        ("precision: bf16-true", "trainer.precision"),
        ("max_time: 90m", "trainer.max_time"),
        ("accelerator: abacus", "trainer.accelerator"),
    ],
)
def test_a_trainer_option_that_cannot_be_is_named(load, option: str, said: str):
    with pytest.raises(ConfigError, match=said):
        load(TASK + f"trainer: {{{option}}}\n")


def test_trainer_options_stay_as_they_are_given(load):
    given = {"accelerator": "auto", "devices": -1, "num_nodes": 2, "strategy": "ddp", "precision": "bf16-mixed"}
    trainer = load(TASK + f"trainer: {given}\n").trainer
    assert trainer.model_dump(include=set(given)) == given
    assert trainer.several_processes


def test_anchors_and_merge_keys_are_written_out(load):
    text = TASK + "patterns: {inputs: &p {pooling: mean}, reconstruction: {<<: *p, pooling: last}}\n"
    assert load(text).patterns == {"inputs": {"pooling": "mean"}, "reconstruction": {"pooling": "last"}}


def test_an_override_of_an_anchored_section_leaves_its_alias_alone(load):
    text = TASK + "patterns: {inputs: &p {pooling: mean}, reconstruction: *p}\n"
    config = load(text, "patterns.inputs.pooling=last")
    assert config.patterns["reconstruction"] == {"pooling": "mean"}


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!include", "!!set", "!!str", "!"])
def test_tags_are_refused(complaint, tag):
    assert complaint(f"task: {tag} {{name: digits}}\n").startswith("tags are refused (")


def test_a_key_given_twice_is_refused(complaint):
    assert complaint("seed: 1\nseed: 2\n") == "the key 'seed' is given twice at line 2, column 1."


def test_a_key_given_twice_deep_inside_is_refused(complaint):
    assert "'steps' is given twice at line 2" in complaint(TASK + "decomposition: {steps: 1, steps: 2}\n")


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_refused(complaint, text):
    assert complaint(text) == "the file is empty. It needs 'target' and 'data', or 'task'."


@pytest.mark.parametrize(("text", "kind"), [("- 1\n", "list"), ("words\n", "str"), ("3\n", "int")])
def test_a_file_that_is_no_mapping_is_refused(complaint, text, kind):
    assert complaint(text) == f"a mapping of sections (key: value) is needed, not a {kind}."


def test_several_documents_in_a_file_are_refused(complaint):
    assert "expected a single document" in complaint("seed: 1\n---\nseed: 2\n")


def test_broken_yaml_is_told_with_its_place(complaint):
    assert complaint("task: {name: [digits\n").endswith("at line 2, column 1.")


def test_a_file_inside_itself_is_refused(complaint):
    assert "an anchor holds itself" in complaint("task: &t {name: digits, again: *t}\n")


@pytest.mark.parametrize("text", ["? [1, 2]\n: 3\n", "? {a: 1}\n: 3\n"])
def test_a_key_that_is_no_name_is_refused(complaint, text):
    assert "unhashable key" in complaint(text)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00task")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_config(tmp_path / "x.yaml")


def test_control_characters_are_refused(complaint):
    assert "not YAML" in complaint("task: \x00\n")


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_an_absent_file_is_told_by_its_name(tmp_path, name):
    with pytest.raises(MissingFileError, match="no config file '"):
        load_config(tmp_path / name)


# What a wrong file is told


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            TASK + "decomposition: {stepz: 3}\n",
            "decomposition.stepz: no such key. Did you mean 'steps'?"
            " Known: betas, learning_rate, method, schedule, steps.",
        ),
        (
            TASK + "scoring: {topp: 3}\n",
            "scoring.topp: no such key. Did you mean 'top'? Known: batch_size, precision, top, view.",
        ),
        (
            OWN.replace("trusted:", "trustd:"),
            "data.trustd: no such key. Did you mean 'trusted'? Known: keep_trusted, key, trusted."
            " (1 more after this one.)",
        ),
        (
            TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, feature: [x]}}}\n",
            "detectors.members.a.feature: no such key. Did you mean 'features'?"
            " Known: combine, detector, features, options, patterns.",
        ),
        (
            TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, options: {neighbors: 3}}}}\n",
            "detectors.members.a.options.neighbors: no such key. Did you mean 'neighbours'?"
            " Known: contamination, inner, neighbours.",
        ),
        (
            TASK + "detectors: {combiner: {options: {x: 3}}}\n",
            "detectors.combiner.options.x: no such key. Known: contamination, inner, neighbours.",
        ),
        (
            TASK + "patterns: {inputs: {poling: mean}}\n",
            "patterns.inputs.poling: no such key. Did you mean 'pooling'? Known: pooling.",
        ),
        (
            "task: {name: digits, atack: xor}\n",
            "task.atack: no such key. Did you mean 'attack'? Known: attack, name, seed.",
        ),
        (
            TASK + "decomposition: {schedule: {start: 1, stopp: 0}}\n",
            "decomposition.schedule.stopp: no such key. Did you mean 'stop'? Known: start, stop.",
        ),
        (
            TASK + "tracking: {register_model: false}\n",
            "tracking.register_model: no such key. Did you mean 'register'? Known: enabled, experiment, log_example,"
            " register, run_name, tracking_uri.",
        ),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(complaint, text, line):
    assert complaint(text) == line


def test_an_unknown_section_is_named_with_the_nearest_known_one(complaint):
    said = complaint(TASK + "detektors: {}\n")
    assert said.startswith("detektors: no such key. Did you mean 'detectors'? Known: calibration, clustering, data,")


@pytest.mark.parametrize("asks", ["patterns: {attributions: {view: components}}", "scoring: {view: components}"])
def test_a_components_view_without_clustering_is_refused(complaint, asks):
    key = "patterns.attributions.view" if "patterns" in asks else "scoring.view"
    said = complaint(f"{TASK}{asks}\nclustering: {{enabled: false}}\n")
    assert said == f"'{key}: components' needs 'clustering.enabled: true'."


def test_an_unknown_key_without_a_value_is_refused_too(complaint):
    assert complaint(TASK + "decompositon:\n").startswith("decompositon: no such key. Did you mean 'decomposition'?")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("task: {name: digitz}\n", "task.name: no task named 'digitz'. Did you mean 'digits'? Known: digits."),
        (
            TASK + "decomposition: {method: spdd}\n",
            "decomposition.method: no method named 'spdd'. Did you mean 'spd'? Known: apd, spd.",
        ),
        (
            TASK + "patterns: {input: {}}\n",
            "patterns.input: no extractor named 'input'. Did you mean 'inputs'? Known: inputs, reconstruction.",
        ),
        (
            TASK + "detectors: {members: {a: {detector: kn, patterns: inputs}}}\n",
            "detectors.members.a.detector: no detector named 'kn'. Did you mean 'knn'?"
            " Known: knn, soft_maximum, standardised_mean.",
        ),
        (
            TASK + "detectors: {members: {a: {detector: knn, patterns: input}}}\n",
            "detectors.members.a.patterns: no extractor named 'input'. Did you mean 'inputs'?"
            " Known: inputs, reconstruction.",
        ),
        (
            TASK + "detectors: {combiner: {detector: softmax}}\n",
            "detectors.combiner.detector: no detector named 'softmax'. Did you mean 'soft_maximum'?"
            " Known: knn, soft_maximum, standardised_mean.",
        ),
    ],
)
def test_an_unknown_plugin_is_named_with_its_key_and_the_nearest_one(complaint, text, line):
    assert complaint(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data: {trusted: t.npz}\n", "'target' missing: a config needs either 'target' and 'data', or 'task'."),
        ("seed: 1\n", "'target' and 'data' missing: a config needs either 'target' and 'data', or 'task'."),
        (OWN + TASK, "'task' brings its own target and data: keep either 'task', or 'target' and 'data'."),
        ("task: {attack: xor}\n", "task: its 'name' must be a name, like 'name: digits'."),
        (TASK + "decomposition: {method: }\n", "decomposition: its 'method' must be a name, like 'method: spd'."),
        ("target: {}\ndata: {trusted: t.npz}\n", "target.factory: this key is needed."),
        (
            TASK + "detectors: {members: {a: {detector: knn}}}\n",
            "detectors.members.a.patterns: this key is needed.",
        ),
        (TASK + "detectors: {members: {}}\n", "detectors.members: at least one member with combine: true is needed."),
        (
            TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, combine: false}}}\n",
            "detectors.members: at least one member with combine: true is needed.",
        ),
        (
            TASK + "scoring: 5\n",
            "scoring: a section with keys among batch_size, precision, top, view is needed here, not 5.",
        ),
        (TASK + "decomposition: [1]\n", "decomposition: a section is needed here, not [1]."),
        (
            TASK + "scoring: {precision: float}\n",
            "scoring.precision: should be 'auto', 'float64' or 'float32', and is 'float'.",
        ),
        (TASK + "scoring: {batch_size: 0}\n", "scoring.batch_size: should be greater than or equal to 1, and is 0."),
        (
            TASK + "decomposition: {steps: many}\n",
            "decomposition.steps: should be a valid integer, unable to parse string as an integer, and is 'many'.",
        ),
        (
            TASK + "decomposition: {betas: [0.9, x]}\n",
            "decomposition.betas.1: should be a valid number, unable to parse string as a number, and is 'x'.",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_dotted_key(complaint, text, line):
    assert complaint(text) == line


@pytest.mark.parametrize("name", ["a/b", "../a", ".a", "a b", ""])
def test_a_member_whose_name_could_leave_its_folder_is_refused(complaint, name):
    text = TASK + f"detectors: {{members: {{'{name}': {{detector: knn, patterns: inputs}}}}}}\n"
    assert complaint(text).startswith("detectors.members")


@pytest.mark.parametrize("name", ["a/b", "a:b", "a@b", "", " a"])
def test_an_experiment_name_that_mlflow_would_refuse_is_refused(name):
    with pytest.raises(ValidationError):
        TrackingConfig(experiment=name)


# Overrides


def test_an_override_creates_the_sections_it_names(load):
    assert load(TASK, "decomposition.steps=200").decomposition == {"method": "spd", "steps": 200}


def test_an_override_wins_over_the_file(load):
    assert load(TASK + "seed: 1\n", "seed=2").seed == 2


def test_the_last_of_two_overrides_wins(load):
    assert load(TASK, "seed=2", "seed=3").seed == 3


def test_an_override_fills_a_section_that_is_only_a_heading(load):
    assert load(TASK + "scoring:\n", "scoring.top=5").scoring.top == 5


def test_an_override_is_read_as_yaml(load):
    config = load(OWN, "target.sites=[fc1, 'layers.*']", "data.key=x=y", "target.kwargs.scale=1e-4")
    assert config.target.sites == ("fc1", "layers.*")
    assert config.data.key == "x=y"
    assert config.target.kwargs == {"scale": 1e-4}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "decomposition.stepz=3",
            "decomposition.stepz: no such key. Did you mean 'steps'?"
            " Known: betas, learning_rate, method, schedule, steps.",
        ),
        ("seed", "--set 'seed': write it as key.sub=value."),
        ("=3", "--set '=3': write it as key.sub=value."),
        ("a..b=3", "--set 'a..b=3': write it as key.sub=value."),
        ("seed.deep=3", "--set seed.deep: 'seed' holds 1, not a section with keys."),
        (
            "seed=[1",
            "--set seed: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"
            " at line 1, column 3.",
        ),
        ("seed=!!python/none", "--set seed: tags are refused (tag:yaml.org,2002:python/none) at line 1, column 1."),
    ],
)
def test_a_wrong_override_is_told_like_a_wrong_key(complaint, override, line):
    assert complaint(TASK + "seed: 1\n", override) == line


# Plug-ins and defaults


def test_plugin_sections_become_the_plugins_own_configs(load):
    config = load(TASK + "decomposition: {method: apd, steps: 7}\npatterns: {inputs: {pooling: mean}}\n")
    assert method_of(config)[0] is FakeMethod
    assert method_of(config)[1] == FakeMethod.Config(steps=7)
    assert extractors_of(config)["inputs"] == (FakeExtractor, FakeExtractor.Config(pooling="mean"))
    assert task_of(config) == (FakeTask, FakeTask.Config())


def test_an_own_target_has_no_task(load):
    assert task_of(load(OWN)) is None


def test_resolving_writes_every_default_out(load):
    whole = resolved(load(TASK + "decomposition: {steps: 7}\n"))
    assert whole["decomposition"] == {
        "method": "spd",
        "steps": 7,
        "learning_rate": 0.001,
        "schedule": {"value": 1.0},
        "betas": [0.9, 0.99],
    }
    assert whole["task"] == {"name": "digits", "attack": "conj", "seed": 0}
    assert whole["patterns"] == {"reconstruction": {"pooling": "maximum"}}
    assert whole["detectors"]["combiner"]["options"] == {"contamination": 0.01, "neighbours": 5, "inner": None}
    assert whole["tracking"]["register"] is True


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        TASK,
        TASK + "decomposition: {learning_rate: 1e-5, schedule: {start: 1}}\ntracking: {register: false}\n",
        TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, options: {neighbours: 3}}}}\n",
    ],
)
def test_a_resolved_config_resolves_to_itself(load, text):
    once = resolved(load(text))
    assert resolved(load(yaml.safe_dump(once, sort_keys=False))) == once


def test_resolving_changes_nothing_in_the_config(load):
    config = load(TASK + "detectors: {members: {a: {detector: knn, patterns: inputs, options: {neighbours: 3}}}}\n")
    before = config.model_dump()
    resolved(config)
    assert config.model_dump() == before


def test_the_schema_knows_the_keys_of_every_plugin():
    schema = json_schema()
    methods = schema["properties"]["decomposition"]["anyOf"]
    assert methods == [{"$ref": f"#/$defs/{name}"} for name in ("method.spd", "method.apd", "TakenDecomposition")]
    assert schema["$defs"]["method.spd"]["properties"]["method"] == {"const": "spd"}
    assert "learning_rate" in schema["$defs"]["method.spd"]["properties"]
    assert schema["$defs"]["task.digits"]["required"] == ["name"]


def test_every_reference_in_the_schema_can_be_followed():
    schema = json_schema()

    def references(node):
        if isinstance(node, dict):
            yield from [node["$ref"]] if "$ref" in node else []
            yield from (found for value in node.values() for found in references(value))
        elif isinstance(node, list):
            yield from (found for value in node for found in references(value))

    found = set(references(schema))
    assert "#/$defs/method.spd.Linear" in found
    assert {name.removeprefix("#/$defs/") for name in found} <= schema["$defs"].keys()


def test_the_path_may_be_a_string(tmp_path):
    (tmp_path / "x.yaml").write_text(OWN)
    assert load_config(str(tmp_path / "x.yaml")) == load_config(Path(tmp_path / "x.yaml"))
