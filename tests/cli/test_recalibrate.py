"""`madpipe recalibrate`: what it hands to the workflow and what it prints."""

import json
from pathlib import Path

import numpy as np


def test_the_document_holds_what_the_workflow_gave_as_plain_values(madpipe, stand_in):
    stand_in("recalibrate", lambda *_, **__: {"calibration_size": np.int64(500), "shift": np.float32("nan")})
    ended = madpipe("recalibrate", "--pipeline", "p", "--trusted", "n.npz", "--json")
    assert json.loads(ended.out) == {"calibration_size": 500, "shift": None}


def test_options_reach_the_workflow(madpipe, stand_in):
    calls = stand_in("recalibrate", lambda *_, **__: {})
    ended = madpipe("recalibrate", "--pipeline", "p", "--trusted", "n.npz", "--key", "x")
    assert calls[0][0] == (Path("p"), Path("n.npz"))
    assert calls[0][1]["key"] == "x"
    assert ended.out == ""
    assert ended.err.startswith("Recalibrated p on n.npz. Next: madpipe score --pipeline p ")
