"""`madpipe score`: what it hands to the workflow, what it prints, and exit code 3."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def scores(stand_in):
    def score(*_, output, **__):
        return SimpleNamespace(rows=2000, flagged=37, output=output, calibration_size=500, seconds=1.25, drift=None)

    return stand_in("score", score)


def test_talk_ends_with_what_was_made_and_the_next_step(madpipe, scores):
    ended = madpipe("score", "--pipeline", "p", "a.npz", "-o", "s.csv")
    assert ended.code == 0
    assert ended.out == ""
    assert ended.err == (
        "Scored 2,000 inputs in 1.2 s, 37 flagged at p <= 0.01 -> s.csv."
        " Next: read top_components of the flagged rows\n"
    )


def test_flagged_inputs_end_with_3_only_on_demand(madpipe, scores):
    assert madpipe("score", "--pipeline", "p", "a.npz", "--fail-if-flagged").code == 3


def test_no_flagged_input_ends_with_0(madpipe, stand_in):
    nothing = {"rows": 1, "flagged": 0, "output": "-", "calibration_size": 9, "seconds": 0.0, "drift": None}
    stand_in("score", lambda *_, **__: SimpleNamespace(**nothing))
    ended = madpipe("score", "--pipeline", "p", "a.npz", "--fail-if-flagged")
    assert ended.code == 0
    assert ended.err.startswith("Scored 1 input in 0.0 s, 0 flagged at p <= 0.01. Next: ")


def test_json_is_one_document(madpipe, scores):
    ended = madpipe("score", "--pipeline", "p", "a.npz", "--json", "--alpha", "0.05", "--fail-if-flagged")
    assert ended.code == 3
    assert json.loads(ended.out) == {
        "rows": 2000,
        "flagged": 37,
        "output": None,
        "calibration_size": 500,
        "seconds": 1.25,
        "alpha": 0.05,
    }


@pytest.mark.parametrize(
    ("arguments", "output"),
    [([], "-"), (["-o", "-"], "-"), (["--json"], None), (["--json", "-o", "s.jsonl"], "s.jsonl")],
)
def test_the_table_goes_to_stdout_unless_something_else_does(madpipe, scores, arguments, output):
    madpipe("score", "--pipeline", "p", "a.npz", *arguments)
    assert scores[0][1]["output"] == output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "-", "--json"], "-o - and --json would both write to stdout"),
        (["-o", "s.txt"], "-o 's.txt': the name must end in .parquet, .csv, .jsonl, or be - for stdout, or a folder"),
        (["--shard", "4/4", "-o", "s.csv"], "'4/4' is not i/n with 0 <= i < n"),
        (["--shard", "-1/4", "-o", "s.csv"], "'-1/4' is not i/n"),
        (["--shard", "0/4"], "--shard needs -o with the name of a score file"),
        (["--shard", "0/4", "-o", "s/"], "--shard needs -o with the name of a score file"),
        (["--alpha", "0.1", "--fdr", "0.1"], "--alpha and --fdr are two rules"),
        (["--fdr", "0.1", "--shard", "0/4", "-o", "s.csv"], "madpipe merge --fdr"),
        (["--fdr", "0.1", "-o", "s/"], "--fdr needs one table"),
        (["--since", "last"], "--since needs -o FOLDER/"),
        (["--since", "yesterday", "-o", "s/"], "'yesterday' is neither 'last' nor an ISO time"),
        (["--format", "csv", "-o", "s.csv"], "--format needs -o FOLDER/"),
        (["--monitor", "m.npz", "--shard", "0/4", "-o", "s.csv"], "--monitor follows the inputs in their order"),
        (["--monitor-level", "0.1"], "--monitor STATE is missing"),
        (["--fail-if-drift"], "--monitor STATE is missing"),
        (["--alpha", "0"], "--alpha"),
        (["--alpha", "1"], "--alpha"),
        (["--batch-size", "0"], "--batch-size"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_options_that_cannot_be_meant_end_with_2_before_any_work(madpipe, scores, arguments, said):
    ended = madpipe("score", "--pipeline", "p", "a.npz", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not scores


def test_options_reach_the_workflow(madpipe, scores):
    madpipe(
        *("score", "--pipeline", "models:/m@champion", "a.npz", "b.npz", "--alpha", "0.001", "--key", "x"),
        *("--batch-size", "8", "--device", "cuda:1", "--log", "--trust-code", "--tracking-uri", "http://h:1"),
    )
    arguments, options = scores[0]
    assert arguments == ("models:/m@champion", (Path("a.npz"), Path("b.npz")))
    del options["report"]
    assert options == {
        "output": "-",
        "alpha": 0.001,
        "fdr": None,
        "shard": None,
        "monitor": None,
        "monitor_level": None,
        "key": "x",
        "batch_size": 8,
        "device": "cuda:1",
        "log": True,
        "trust_code": True,
        "tracking_uri": "http://h:1",
    }


def test_options_of_scale_reach_the_workflow(madpipe, scores):
    madpipe("score", "--pipeline", "p", "a.npz", "--shard", "2/8", "-o", "s.csv")
    madpipe("score", "--pipeline", "p", "a.npz", "--fdr", "0.1", "--monitor", "m.npz", "--monitor-level", "0.05")
    assert scores[0][1]["shard"] == (2, 8)
    names = ("fdr", "monitor", "monitor_level")
    assert [scores[1][1][name] for name in names] == [0.1, Path("m.npz"), 0.05]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [([], None), (["--since", "last"], "last"), (["--since", "1970-01-01T00:01:00+00:00"], 60 * 10**9)],
)
def test_a_folder_as_output_is_another_workflow(madpipe, stand_in, given, wanted):
    said = {"rows": 3, "flagged": 1, "output": "s/abc", "scored": ["a"], "skipped": ["b"], "failed": {}}
    result = SimpleNamespace(**said, calibration_size=9, seconds=0.0, drift=None)
    calls = stand_in("score_folder", lambda *_, **__: result)
    ended = madpipe("score", "--pipeline", "p", "in", "-o", "s/", "--format", "csv", "--json", *given)
    assert ended.code == 0
    assert json.loads(ended.out) == said | {"calibration_size": 9, "seconds": 0.0, "alpha": 0.01}
    options = calls[0][1]
    assert (options["since"], options["suffix"], options["output"]) == (wanted, ".csv", Path("s/"))


@pytest.mark.parametrize(("alarmed_at", "code"), [(None, 0), (70, 3)])
def test_an_alarm_of_drift_ends_with_3_on_demand(madpipe, stand_in, alarmed_at, code):
    from madpipe.pipeline.drift import DriftReport, History

    drift = DriftReport(100, 2.5, 0.01, alarmed_at, (), History())
    result = SimpleNamespace(rows=9, flagged=0, output=None, calibration_size=9, seconds=0.0, drift=drift)
    stand_in("score", lambda *_, **__: result)
    words = ("score", "--pipeline", "p", "a.npz", "--monitor", "m.npz", "--json")
    assert madpipe(*words).code == 0
    ended = madpipe(*words, "--fail-if-drift")
    assert ended.code == code
    told = {"seen": 100, "log10_evidence": 2.5, "level": 0.01, "alarmed_at": alarmed_at, "skipped": []}
    assert json.loads(ended.out)["drift"] == told


def test_inputs_and_pipeline_are_needed(madpipe):
    assert madpipe("score", "--pipeline", "p").err.startswith("madpipe: missing argument 'INPUTS...'.")
    assert madpipe("score", "a.npz").err.startswith("madpipe: missing option '--pipeline'.")
