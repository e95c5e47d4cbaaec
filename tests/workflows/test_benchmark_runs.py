"""A suite in MLflow: resumed, never logged twice, and no reason to lose a result."""

import json
import shutil

import pytest

from madpipe.config.suite import Suite
from madpipe.errors import TrackingError
from madpipe.tracking.runs import Run, open_store
from madpipe.workflows.benchmark_plan import cells_of
from madpipe.workflows.benchmark_runs import cell_metrics, suite_run

SUITE = Suite(name="it", tasks=({"name": "digits"},), experiment="runs-of-suites")
CONTROLS, DEFAULT = cells_of(SUITE)


@pytest.fixture
def store(fitted, tmp_path):
    shutil.copy(fitted.folder / "mlflow.db", tmp_path / "mlflow.db")
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "runs-of-suites")


def children(store, parent):
    runs = store.client.search_runs([store.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    return sorted(run.data.params["pipeline"] for run in runs)


def test_a_resumed_suite_continues_its_run_and_logs_no_cell_twice(store, tmp_path, benchmark_cell):
    document = benchmark_cell(controls={"student_kl": 0.8})
    seen = []
    for cells in ((DEFAULT,), (DEFAULT, CONTROLS)):
        with suite_run(SUITE, tmp_path, store) as record:
            for cell in cells:
                record.log(cell, document)
            record.finish(())
            seen.append((record.run.id, children(store, record.run.id)))
    assert seen[0] == (seen[1][0], ["default"])
    assert seen[1][1] == ["controls", "default"]


def test_a_child_that_was_begun_is_finished_and_not_begun_again(store, tmp_path, benchmark_cell, monkeypatch):
    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    with pytest.raises(KilledError), monkeypatch.context() as patch, suite_run(SUITE, tmp_path, store) as record:
        patch.setattr(Run, "metrics", killed)
        record.log(DEFAULT, benchmark_cell())
    with suite_run(SUITE, tmp_path, store) as record:
        record.log(DEFAULT, benchmark_cell())
        assert children(store, record.run.id) == ["default"]


def test_another_store_has_a_run_of_its_own_with_every_cell(store, tmp_path, benchmark_cell):
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other" / "mlflow.db")
    other = open_store(f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}", "runs-of-suites")
    for each in (store, other):
        with suite_run(SUITE, tmp_path, each) as record:
            record.log(DEFAULT, benchmark_cell())
            assert children(each, record.run.id) == ["default"]


def test_what_a_store_misses_for_a_while_is_logged_at_the_end(store, tmp_path, benchmark_cell, monkeypatch):
    def dead(*_):
        raise TrackingError("cannot write to it")

    with suite_run(SUITE, tmp_path, store) as record:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "params", dead)
            record.log(DEFAULT, benchmark_cell())
        assert str(record.failure) == "cannot write to it"
        record.log(CONTROLS, benchmark_cell())  # not tried: each try may take seconds
        assert json.loads((tmp_path / "tracking.json").read_text())["logged"] == []
        record.finish(())
        assert children(store, record.run.id) == ["controls", "default"]


def test_metrics_are_grouped_by_what_they_judge(benchmark_cell):
    values = cell_metrics(benchmark_cell(auroc=0.9, agree=0.6, controls={"student_kl": 0.8}))
    assert values["auroc"] == 0.9
    assert values["agree/auroc"] == 0.6
    assert values["members/surprise/auroc"] == 0.7
    assert values["controls/student_kl/auroc"] == 0.8
    assert values["controls/student_kl/agree/tpr_at_1"] == 0.3
    assert values["cost/evaluations"] == 9


def test_without_an_experiment_nothing_is_logged(tmp_path, benchmark_cell):
    with suite_run(SUITE, tmp_path, None) as record:
        record.log(DEFAULT, benchmark_cell())
        record.finish(("table.md",))
    assert not (tmp_path / "tracking.json").exists()
