"""Numbers, lengths of time, tables and documents as people and programs read them."""

import json
from pathlib import Path

import numpy as np
import pytest

from madpipe.cli.printing import command_line, counted, duration, near, print_json, print_table


@pytest.mark.parametrize(("number", "text"), [(0, "0 inputs"), (1, "1 input"), (2000, "2,000 inputs")])
def test_a_count_has_separators_and_a_plural(number, text):
    assert counted(number, "input") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (10.4, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3605, "60 min 5 s")],
)
def test_a_duration_is_short_and_never_60_seconds(seconds, text):
    assert duration(seconds) == text


def test_a_path_below_the_current_folder_is_shown_short(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert near(tmp_path / "a" / "b") == Path("a/b")
    assert near(tmp_path.parent) == tmp_path.parent
    assert near(Path("a")) == Path("a")


def test_a_command_line_can_be_pasted_even_with_spaces_in_a_path():
    assert command_line("madpipe", "fit", Path("my files/x.yaml")) == "madpipe fit 'my files/x.yaml'"


def test_a_document_is_strict_json(capsys):
    print_json({"a": float("nan"), "b": np.array([1.5, np.inf]), "c": Path("x"), "d": (np.float32(0.5), None), 1: True})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None], "c": "x", "d": [0.5, None], "1": True}


def test_a_table_is_aligned_and_has_no_trailing_blanks(capsys):
    print_table(["", "AUROC"], [["default", "1.000"], ["a", "-"]])
    assert capsys.readouterr().out == "         AUROC\ndefault  1.000\na            -\n"
