"""`madpipe evaluate`: the table, the document and the options."""

import json
from pathlib import Path

import pytest

METRICS = {
    "auroc": 0.98765,
    "average_precision": 0.5,
    "tpr_at_1": 0.25,
    "tpr_at_5": 1.0,
    "fpr_at_nominal_1": 0.012,
    "fpr_at_nominal_1_interval": (0.0, 0.03),
    "recall_at_nominal_1": 0.75,
}
RESULT = {
    "default": METRICS,
    "members": {"output_divergence": METRICS},
    "controls": {"mahalanobis": {"auroc": 0.5}},
    "subsets": {},
}


@pytest.fixture
def evaluations(stand_in):
    return stand_in("evaluate", lambda *_, **__: RESULT)


def test_the_table_has_a_line_for_the_default_each_member_and_each_control(madpipe, evaluations):
    lines = madpipe("evaluate", "--pipeline", "p", "t.npz", "--controls").out.splitlines()
    assert lines[0].split("  ")[-1].strip() == "recall p<=1%"
    assert lines[1].split() == ["default", "0.988", "0.500", "0.250", "1.000", "0.012", "0.000-0.030", "0.750"]
    assert lines[2].split()[:3] == ["member", "output_divergence", "0.988"]
    assert lines[3].split() == ["control", "mahalanobis", "0.500", *"------"]


def test_the_columns_of_the_table_are_aligned(madpipe, evaluations):
    lines = madpipe("evaluate", "--pipeline", "p", "t.npz").out.splitlines()
    assert len({len(line) for line in lines}) == 1


def test_json_is_one_document(madpipe, evaluations):
    document = json.loads(madpipe("evaluate", "--pipeline", "p", "t.npz", "--json").out)
    assert document["default"]["fpr_at_nominal_1_interval"] == [0.0, 0.03]
    assert document["controls"] == {"mahalanobis": {"auroc": 0.5}}


def test_options_reach_the_workflow(madpipe, evaluations):
    madpipe(
        *("evaluate", "--pipeline", "p", "t.npz", "--label", "bad", "--key", "x", "--controls"),
        *(
            "--trusted",
            "c.npz",
            "--untrusted",
            "u.npz",
            "--figure",
            "f.png",
            "--log",
            "--trust-code",
            "--tracking-uri",
            "sqlite:///a.db",
        ),
    )
    arguments, options = evaluations[0]
    assert arguments == ("p", Path("t.npz"))
    del options["report"]
    assert options == {
        "label": "bad",
        "key": "x",
        "controls": True,
        "trusted": Path("c.npz"),
        "untrusted": Path("u.npz"),
        "figure": Path("f.png"),
        "log": True,
        "trust_code": True,
        "tracking_uri": "sqlite:///a.db",
    }


def test_without_controls_they_are_the_next_step(madpipe, evaluations):
    ended = madpipe("evaluate", "--pipeline", "p", "t.npz")
    assert ended.err == ("Evaluated t.npz. Next: madpipe evaluate --pipeline p t.npz --label is_anomalous --controls\n")


def test_a_figure_that_is_no_png_ends_with_2_before_any_work(madpipe, evaluations):
    ended = madpipe("evaluate", "--pipeline", "p", "t.npz", "--figure", "f.svg")
    assert ended.code == 2
    assert not evaluations
