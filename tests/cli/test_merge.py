"""`madpipe merge`: what it hands to the workflow, what it prints, and exit code 3."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture
def merged(stand_in):
    def merge(_, *, output, fdr, report):
        rule = {"alpha": 0.01} if fdr is None else {"fdr": fdr}
        return SimpleNamespace(rows=2000, flagged=37, output=output, shards=4, rule=rule, seconds=1.25)

    return stand_in("merge", merge)


def test_talk_ends_with_what_was_made(madpipe, merged):
    ended = madpipe("merge", "0.csv", "1.csv", "-o", "s.csv")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.startswith("Merged 4 shards, 2,000 inputs, in 1.2 s, 37 flagged at p <= 0.01 -> s.csv. Next: ")
    assert merged[0][0] == ((Path("0.csv"), Path("1.csv")),)


def test_json_is_one_document_and_flagged_inputs_end_with_3_on_demand(madpipe, merged):
    ended = madpipe("merge", "0.csv", "-o", "s.csv", "--fdr", "0.1", "--json", "--fail-if-flagged")
    assert ended.code == 3
    document = {"rows": 2000, "flagged": 37, "output": "s.csv", "shards": 4, "rule": {"fdr": 0.1}, "seconds": 1.25}
    assert json.loads(ended.out) == document
    assert "37 flagged at false-discovery rate 0.1" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "s.txt"], "-o 's.txt': the name must end in"),
        (["-o", "-", "--json"], "-o - and --json would both write to stdout"),
        (["-o", "s.csv", "--fdr", "1"], "--fdr"),
        ([], "missing option"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_before_any_work(madpipe, merged, arguments, said):
    ended = madpipe("merge", "0.csv", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert not merged
