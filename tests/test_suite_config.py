"""Suite files: what they mean, and one line for whatever is wrong with them."""

import pytest

from madpipe.config.suite import load_suite, pipeline_config
from madpipe.errors import MadpipeError
from madpipe.workflows.benchmark_plan import cells_of

SUITE = """
name: it
tasks:
  - {name: digits, attack: conj}
  - {name: boolean, variant: override}
seeds: [0, 3]
pipelines:
  default:
  apd: {decomposition: {method: apd}, calibration: {folds: 1}}
"""


@pytest.fixture
def load(tmp_path):
    def from_text(text: str):
        (tmp_path / "it.yaml").write_text(text)
        return load_suite(tmp_path / "it.yaml")

    return from_text


def names(suite) -> list[str]:
    return [cell.name for cell in cells_of(suite)]


def test_a_pipelines_sections_lie_over_the_defaults(load):
    suite = load(SUITE)
    config = pipeline_config(suite, "apd", suite.tasks[1], 3)
    assert config.task == {"name": "boolean", "variant": "override", "seed": 3}
    assert (config.seed, config.decomposition, config.calibration.folds) == (3, {"method": "apd"}, 1)
    assert config.detectors == pipeline_config(suite, "default", suite.tasks[0], 0).detectors
    assert not config.tracking.enabled


def test_cells_are_tasks_times_seeds_times_pipelines_and_their_controls(load):
    readable = [name.rpartition(".")[0] for name in names(load(SUITE))]
    assert len(readable) == 2 * 2 * (2 + 2)  # pipelines with other calibration rows have controls of their own
    assert readable[:4] == [
        "digits-conj-mlp-0.controls",
        "digits-conj-mlp-0.default",
        "digits-conj-mlp-0.controls",
        "digits-conj-mlp-0.apd",
    ]


def test_pipelines_ranked_on_the_same_rows_share_their_controls(load):
    cells = cells_of(load(SUITE.replace(", calibration: {folds: 1}", "")))
    assert len(cells) == 2 * 2 * (2 + 1)
    controls, *fitted = cells[:3]
    assert {cell.controls for cell in fitted} == {controls.name}


@pytest.mark.parametrize(
    ("old", "new"),
    [("method: apd", "method: apd, steps: 9"), ("folds: 1", "folds: 2"), ("method: apd", "method: vpd")],
)
def test_a_changed_setting_changes_the_names_of_its_own_cells_only(load, old, new):
    before, after = set(names(load(SUITE))), set(names(load(SUITE.replace(old, new))))
    changed = {name.split(".")[1] for name in before - after}
    assert changed == ({"apd", "controls"} if "folds" in old else {"apd"})
    assert any(".default." in name for name in before & after)


def test_what_decides_nothing_changes_no_name(load):
    assert names(load(SUITE)) == names(load(SUITE.replace("name: it", "name: other\nexperiment: elsewhere")))


def test_offline_controls_are_other_cells(load):
    before, after = names(load(SUITE)), names(load(SUITE + "offline: true\n"))
    assert {name.split(".")[1] for name in set(before) - set(after)} == {"controls"}


def test_without_controls_there_are_pipelines_alone(load):
    cells = cells_of(load(SUITE + "controls: false\n"))
    assert len(cells) == 8
    assert {cell.controls for cell in cells} == {None}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds", "seds", "seds: no such key. Did you mean 'seeds'?"),
        ("attack: conj", "atack: conj", "tasks.0.atack: no such key. Did you mean 'attack'?"),
        ("name: boolean", "name: bolean", "tasks.1.name: no task named 'bolean'. Did you mean 'boolean'?"),
        ("calibration", "calibraton", "pipelines.apd.calibraton: no such key. Did you mean 'calibration'?"),
        ("folds", "fold", "pipelines.apd.calibration.fold: no such key. Did you mean 'folds'?"),
        ("method: apd", "method: ap", "pipelines.apd: decomposition.method: no method named 'ap'. Did you mean 'apd'?"),
        ("method: apd", "from: there", "pipelines.apd.decomposition: a suite trains on tasks of its own"),
        ("[0, 3]", "[0, 0]", "seeds: 0 is given twice."),
        ("[0, 3]", "[-1]", "seeds.0: "),
        ("attack: conj", "seed: 1", "'seed'; name seeds once, in 'seeds'."),
        ("name: digits", "nam: digits", "needs a 'name', like 'name: digits'."),
        ("name: it", "name: it\noffline: true\ncontrols: false", "'offline: true' is about controls"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(load, old, new, said):
    with pytest.raises(MadpipeError) as error:
        load(SUITE.replace(old, new, 1))
    assert said in str(error.value)
    assert "it.yaml: " in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_is_told_what_it_needs(load):
    with pytest.raises(MadpipeError, match="the file is empty. It needs 'name' and 'tasks'."):
        load("")
