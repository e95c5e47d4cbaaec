"""A benchmark that is killed, continued and has a failing cell: what is there is kept, and all of it is summed up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

import madpipe
from madpipe.config.suite import load_suite
from madpipe.errors import MissingFileError, UnknownNameError
from madpipe.workflows.benchmark import BenchmarkResult, benchmark
from madpipe.workflows.benchmark_plan import cells_of

SUITE = """
name: it
tasks: [{name: digits, attack: conj, net: mlp}]
pipelines:
  first: {decomposition: {steps: 4}, calibration: {folds: 1}}
  second: {decomposition: {steps: 5}, calibration: {folds: 1}}
  failing: {decomposition: {steps: 4}, calibration: {folds: 1, calibration_size: 349}}
controls: false
experiment: benchmarks
"""


@dataclass(frozen=True)
class Story:
    """A benchmark in `folder`/out that was killed while its second cell ran, and then continued."""

    folder: Path
    killed: list[Path]  # cells that were there then
    first_cell: int  # when the first was written
    result: BenchmarkResult
    talk: list[str]

    def runs(self):
        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        return client.search_runs([client.get_experiment_by_name("benchmarks").experiment_id])


def wait_for_second_cell(folder: Path, process: "subprocess.Popen[bytes]") -> list[Path]:
    while process.poll() is None:
        cells = list((folder / "out" / "cells").glob("*.json"))
        if cells and list((folder / "out" / "work").glob("*.second.*")):
            return cells
        time.sleep(0.02)
    raise AssertionError(process.communicate())


@pytest.fixture(scope="module")
def story(fitted, tmp_path_factory) -> Story:
    folder = tmp_path_factory.mktemp("benchmark")
    shutil.copy(fitted.folder / "mlflow.db", folder)  # with its tables made, which takes seconds
    (folder / "suite.yaml").write_text(SUITE)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean |= {"PYTHONPATH": str(Path(madpipe.__file__).parents[1])}
    words = [sys.executable, "-m", "madpipe", "benchmark", "suite.yaml", "-o", "out", "--workers", "1"]
    process = subprocess.Popen(words, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    cells = wait_for_second_cell(folder, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    written, talk = cells[0].stat().st_mtime_ns, []
    result = benchmark(
        load_suite(folder / "suite.yaml"),
        output=folder / "out",
        workers=2,
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        report=talk.append,
    )
    return Story(folder, cells, written, result, talk)


@pytest.mark.slow
def test_a_killed_benchmark_keeps_its_cells_and_goes_on_with_the_others(story):
    assert [path.name.split(".")[1] for path in story.killed] == ["first"]
    assert story.killed[0].stat().st_mtime_ns == story.first_cell
    assert (story.result.kept, story.result.made, story.result.missing) == (1, 1, [])
    assert story.talk[0] == "it: 3 cells, 1 there already, 2 to run."


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_go_on(story):
    ((name, reason),) = story.result.failed.items()
    assert name.startswith("digits-conj-mlp-0.failing.")
    assert "349" in reason
    assert [path.name for path in (story.folder / "out" / "logs").iterdir()] == [f"{name}.log"]


@pytest.mark.slow
def test_nothing_of_the_work_is_left(story):
    left = {path.name for path in (story.folder / "out").iterdir()}
    assert left == {"cells", "logs", "lock", "tracking.json", "table.md", "results.json", "report.html"}


@pytest.mark.slow
def test_a_cell_says_how_well_every_member_did_and_what_it_cost(story):
    cell = json.loads(story.killed[0].read_text())
    assert 0 <= cell["default"]["auroc"] <= 1
    assert set(cell["members"]) == set(cell["config"]["detectors"]["members"])
    assert cell["default"]["agree"]["rows"] > 0
    # One clean pass, and one with the alive slots of each variant.
    assert cell["cost"]["evaluations"] == 1 + len(cell["config"]["decomposition"]["variants"])
    assert cell["cost"]["wall_ratio"] > 1
    assert cell["cost"]["fit_seconds"] > 0 < cell["cost"]["fit_process_seconds"]
    low, high = cell["default"]["auroc_interval"]
    assert low <= cell["default"]["auroc"] <= high


@pytest.mark.slow
def test_the_files_hold_every_cell_that_is_there(story):
    out = story.folder / "out"
    results = json.loads((out / "results.json").read_text())
    assert [name.split(".")[1] for name in results["cells"]] == ["first", "second"]
    assert [row["pipeline"] for row in results["summary"]["tasks"]] == ["first", "second"]
    assert "2 of 3 cells" in (out / "table.md").read_text()
    assert "digits-conj-mlp" in (out / "report.html").read_text()


@pytest.mark.slow
def test_one_parent_run_has_one_child_for_each_cell(story):
    runs = {run.info.run_id: run for run in story.runs()}
    parent = runs.pop(story.result.run_id)
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert sorted(run.data.params["pipeline"] for run in runs.values()) == ["first", "second"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_a_childs_params_are_those_of_other_runs_and_its_metrics_those_of_the_cell(story):
    cell = json.loads(story.killed[0].read_text())
    (run,) = [run for run in story.runs() if run.data.params.get("pipeline") == "first"]
    assert run.data.params["decomposition.method"] == "spd"
    assert run.data.params["decomposition.steps"] == "4"
    assert run.data.metrics["auroc"] == pytest.approx(cell["default"]["auroc"])
    member = next(iter(cell["members"]))
    assert run.data.metrics[f"members/{member}/tpr_at_1"] == pytest.approx(cell["members"][member]["tpr_at_1"])
    assert run.data.metrics["agree/auroc"] == pytest.approx(cell["default"]["agree"]["auroc"])


@pytest.mark.slow
def test_the_parent_holds_the_report(story):
    client = MlflowClient(f"sqlite:///{story.folder / 'mlflow.db'}")
    names = {artifact.path for artifact in client.list_artifacts(story.result.run_id)}
    assert names == {"table.md", "results.json", "report.html"}


@pytest.mark.slow
def test_a_report_alone_runs_nothing_and_logs_nothing(story, monkeypatch):
    monkeypatch.setattr("madpipe.workflows.benchmark.open_store", None)
    suite = load_suite(story.folder / "suite.yaml")
    result = benchmark(suite, output=story.folder / "out", report_only=True, report=lambda line: None)
    assert (result.made, result.kept, len(result.missing)) == (0, 2, 1)
    assert (
        json.loads(json.dumps(result.summary))
        == json.loads((story.folder / "out" / "results.json").read_text())["summary"]
    )


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE.replace("controls: false", "controls: true"))
    return load_suite(tmp_path / "suite.yaml")


def keep(suite, folder: Path, made, kinds=("pipeline", "controls")) -> None:
    """Cells as if they had been run: `made()` gives a document with controls."""
    (folder / "cells").mkdir(parents=True)
    for cell in cells_of(suite):
        document = made()
        controls = {"controls": document.pop("controls")}
        if ("controls" if cell.pipeline is None else "pipeline") in kinds:
            own = controls if cell.pipeline is None else document | {"pipeline": cell.pipeline, "task": cell.task}
            cell.path(folder).write_text(json.dumps(own))


def test_pipelines_are_compared_with_the_controls_of_their_own_rows(suite, tmp_path, benchmark_cell):
    keep(suite, tmp_path / "out", lambda: benchmark_cell(controls={"student_kl": 0.8}))
    result = benchmark(suite, output=tmp_path / "out", report_only=True, report=lambda line: None)
    assert {row["control"] for row in result.summary["wins"]} == {"student_kl"}
    assert {row["pipeline"] for row in result.summary["wins"]} == {"first", "second", "failing"}


def test_pipelines_without_their_controls_yet_stand_alone(suite, tmp_path, benchmark_cell):
    keep(suite, tmp_path / "out", lambda: benchmark_cell(controls={"student_kl": 0.8}), kinds=("pipeline",))
    result = benchmark(suite, output=tmp_path / "out", report_only=True, report=lambda line: None)
    assert result.summary["wins"] == []
    assert [name.split(".")[1] for name in result.missing] == ["controls", "controls"]


def test_a_damaged_cell_is_one_to_run(suite, tmp_path, benchmark_cell):
    keep(suite, tmp_path / "out", lambda: benchmark_cell(controls={"student_kl": 0.8}))
    damaged = cells_of(suite)[1]
    damaged.path(tmp_path / "out").write_text("{")
    result = benchmark(suite, output=tmp_path / "out", report_only=True, report=lambda line: None)
    assert result.missing == [damaged.name]


def test_no_cell_at_all_writes_no_report(suite, tmp_path):
    result = benchmark(suite, output=tmp_path / "out", report_only=True, report=lambda line: None)
    assert (result.tables, result.summary) == ([], {})
    assert not (tmp_path / "out" / "table.md").exists()


def test_a_second_benchmark_in_the_same_folder_is_refused(suite, tmp_path):
    from madpipe.workflows.benchmark import _alone_in

    with _alone_in(tmp_path / "out"), pytest.raises(MissingFileError, match="another benchmark works in"):
        benchmark(suite, output=tmp_path / "out", report_only=True, report=lambda line: None)


def test_text_that_no_cell_holds_is_refused(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    suite = load_suite(tmp_path / "suite.yaml")
    with pytest.raises(UnknownNameError, match="no cell's name holds 'cnn'; they are like digits-conj-mlp-0.first"):
        benchmark(suite, output=tmp_path / "out", only="cnn", report=print)
