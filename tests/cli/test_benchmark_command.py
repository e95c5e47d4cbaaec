"""`madpipe benchmark`: what it hands to the workflow, what it prints, how it ends."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from madpipe.evaluation.benchmark_summary import summarise
from madpipe.evaluation.benchmark_tables import tables

SUITE = "name: {}\ntasks: [{{name: digits}}]\n"


@pytest.fixture
def suites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(SUITE.format(name))


@pytest.fixture
def workflow(stand_in, benchmark_cell, suites):
    """The calls that the workflow gets; `ended` are the values of its result to replace."""

    def install(**ended):
        summary = summarise([benchmark_cell(controls={"trusted_copy_kl": 0.8})])

        def give(suite, *, output, **options):
            values = {"folder": output, "summary": summary, "tables": tables(summary), "made": 2, "kept": 1}
            values |= {"failed": {}, "missing": [], "run_id": "r", "untracked": None, "seconds": 75.0}
            return SimpleNamespace(**values | ended)

        return stand_in("benchmark", give)

    return install


def test_options_reach_the_workflow(madpipe, workflow):
    calls = workflow()
    madpipe("benchmark", "one.yaml", "-o", "out", "--workers", 3, "--only", "conj", "--report-only")
    (suite,), options = calls[0]
    assert suite.name == "one"
    assert options["output"] == Path("out").absolute()
    assert (options["workers"], options["only"], options["report_only"]) == (3, "conj", True)


def test_several_suites_have_a_folder_each(madpipe, workflow):
    calls = workflow()
    madpipe("benchmark", "one.yaml", "two.yaml", "-o", "out")
    assert [call[1]["output"].relative_to(Path.cwd()) for call in calls] == [Path("out/one"), Path("out/two")]


def test_without_o_the_folder_is_named_after_the_suite(madpipe, workflow):
    calls = workflow()
    madpipe("benchmark", "one.yaml")
    assert calls[0][1]["output"] == Path("benchmark-one").absolute()


def test_tables_are_data_and_the_rest_is_talk(madpipe, workflow):
    workflow()
    ended = madpipe("benchmark", "one.yaml", "-o", "out")
    assert ended.code == 0
    assert ended.out.splitlines()[1] == "Detection"
    assert ended.out.splitlines()[3].split()[:4] == ["task", "default", "1", "0.900"]
    assert ended.err == (
        "Benchmark: 2 cells run, 1 kept, 0 failed in 1 min 15 s -> out/report.html. Next: open out/report.html\n"
    )


def test_failed_cells_are_named_and_end_with_1(madpipe, workflow):
    workflow(failed={"digits.default.0": "it diverged"})
    ended = madpipe("benchmark", "one.yaml", "-o", "out")
    assert ended.code == 1
    assert "Failed: digits.default.0: it diverged\n" in ended.err
    assert ended.err.endswith("Next: madpipe benchmark one.yaml -o out\n")


def test_what_could_not_be_logged_ends_with_1(madpipe, workflow):
    workflow(untracked="cannot write to it.")
    ended = madpipe("benchmark", "one.yaml", "-o", "out")
    assert ended.code == 1
    assert "Not all is logged: cannot write to it. out is whole; the same command logs the rest.\n" in ended.err


def test_json_is_one_document(madpipe, workflow):
    workflow()
    assert json.loads(madpipe("benchmark", "one.yaml", "--json").out)["summary"]["tasks"][0]["task"] == "task"
    assert set(json.loads(madpipe("benchmark", "one.yaml", "two.yaml", "--json").out)) == {"one", "two"}


def test_two_suites_of_one_name_are_refused(madpipe, suites):
    Path("two.yaml").write_text(SUITE.format("one"))
    ended = madpipe("benchmark", "one.yaml", "two.yaml")
    assert (ended.code, ended.err.startswith("madpipe: two suites are named 'one'.")) == (2, True)
