"""Names that strangers chose (files, columns, layers, tasks, runs) are text in terminals, pages and figures."""

import csv
from html.parser import HTMLParser

import numpy as np
import pytest

from madpipe.cli.printing import print_table, talk, visible
from madpipe.reporting.figures import evaluation_figure
from madpipe.reporting.page import drawing, page, paragraph, section, table
from madpipe.scores import ScoreTable, open_writer

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='alert(1)"
ESCAPES = "\x1b[2J\x1b]0;title\x07red\x9b31m\u202egnp.exe\r\x08"


class Tags(HTMLParser):
    """Every tag, and every attribute that would run something."""

    def __init__(self):
        super().__init__()
        self.tags: set[str] = set()
        self.running: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.running += [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "")]


def test_a_page_runs_no_script_in_any_name():
    figure = evaluation_figure(
        np.arange(20.0), np.arange(20) > 9, members={SCRIPT: np.arange(20.0)}, title=f"{SCRIPT} $\\frac$ $x^$"
    )
    rows = [{SCRIPT: SCRIPT, "auroc": 0.5}]
    parts = [section(SCRIPT, paragraph(SCRIPT), table(rows)), drawing(figure, SCRIPT, SCRIPT)]
    tags = Tags()
    tags.feed(page(SCRIPT, parts))
    assert "script" not in tags.tags
    assert "img" not in tags.tags
    assert not tags.running


def test_what_a_terminal_would_obey_is_written_out():
    assert visible("a\x1b[31m\u202eb\tc\nd") == "a\\x1b[31m\\u202eb\\tc\nd"
    assert visible("grün, 漢字, p ≤ 0,01") == "grün, 漢字, p ≤ 0,01"


def obeyed(text: str) -> str:
    return "".join(c for c in text if not c.isprintable() and c != "\n")


def test_talk_and_tables_hold_no_escapes(capsys):
    talk(ESCAPES)
    print_table([ESCAPES, "b"], [[ESCAPES, ESCAPES]])
    printed = capsys.readouterr()
    assert obeyed(printed.out + printed.err) == ""
    assert "\\x1b[2J" in printed.out


@pytest.mark.parametrize(
    "words", [["fit"], ["config", "validate"], ["score", "--pipeline"], ["evaluate", "--pipeline"], []]
)
def test_an_error_that_repeats_a_name_holds_no_escapes(words, madpipe):
    ended = madpipe(*words, ESCAPES)
    assert ended.code == 2
    assert obeyed(ended.err) == ""


def test_an_array_of_that_name_in_a_file_is_shown_as_text(tmp_path, madpipe, fitted):
    np.savez(tmp_path / "rows.npz", **{ESCAPES.replace("/", ""): np.zeros((3, 6)), "b": np.zeros((3, 6))})
    ended = madpipe("score", "--pipeline", fitted.pipeline, tmp_path / "rows.npz", "-o", tmp_path / "s.csv")
    assert ended.code == 2
    assert obeyed(ended.err) == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_no_cell_of_a_score_file_begins_a_formula(start, tmp_path):
    text = f"{start}cmd|' /C calc'!A0"
    with open_writer(tmp_path / "s.csv") as writer:
        writer.write(ScoreTable.from_scores([text], [0.0], [0.5], 0.01, top_components=[text]))
    with (tmp_path / "s.csv").open(newline="") as file:
        cells = next(csv.DictReader(file))
    assert cells["input_id"].startswith("'")
    assert cells["top_components"].startswith("'")
