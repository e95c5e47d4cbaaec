"""Scores: the sign turns here alone, files are whole or absent, and no cell is a formula."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from madpipe.errors import MissingFileError, UnknownNameError
from madpipe.scores import ScoreTable, anomaly_score, open_writer, plain_cell, safe_cell

COLUMNS = ["input_id", "anomaly_score", "p_value", "flagged", "top_components", "member_knn", "member_copy"]
MEMBERS = ["knn", "copy"]


def table(first: int = 0, row_count: int = 3) -> ScoreTable:
    rows = np.arange(first, first + row_count)
    return ScoreTable.from_scores(
        [str(row) for row in rows],
        -0.1 * rows,
        (rows + 1) / 10,
        alpha=0.2,
        top_components=[["fc1:3", "fc2:0"]] * row_count,
        members={"knn": -1.0 * rows, "copy": np.zeros(row_count)},
    )


def read(path) -> pd.DataFrame:
    match path.suffix:
        case ".parquet":
            return pd.read_parquet(path)
        case ".csv":
            return pd.read_csv(path, dtype={"input_id": str}, keep_default_na=False)
        case _:
            return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])


def write_and_fail(path, error):
    with open_writer(path, MEMBERS) as writer:
        writer.write(table())
        raise error


each_format = pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])


def test_the_anomaly_score_is_minus_the_score():
    assert table().anomaly_score.tolist() == pytest.approx([0, 0.1, 0.2])
    assert table().members["knn"].tolist() == [0, 1, 2]


def test_a_score_of_zero_has_no_sign():
    assert not np.signbit(anomaly_score([0.0, -0.0])).any()


def test_a_p_value_at_the_level_is_flagged():
    assert table().flagged.tolist() == [True, True, False]  # p = 0.1, 0.2, 0.3 at alpha = 0.2


def test_reasons_are_joined():
    assert table().top_components[0] == "fc1:3; fc2:0"


def test_without_reasons_the_column_is_empty():
    assert ScoreTable.from_scores(["0"], [0.0], [1.0], 0.05).top_components == [""]


def test_columns_of_different_lengths_are_our_mistake():
    with pytest.raises(AssertionError, match="anomaly_score"):
        ScoreTable.from_scores(["0", "1"], [0.0], [1.0], 0.05)


def test_columns_stand_in_a_fixed_order():
    assert list(table().columns()) == COLUMNS


@each_format
def test_batches_are_written_one_after_the_other(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    with open_writer(path, MEMBERS) as writer:
        writer.write(table(0, 3))
        writer.write(table(3, 2))
    frame = read(path)
    assert list(frame.columns) == COLUMNS
    assert frame["input_id"].tolist() == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(frame["anomaly_score"], anomaly_score(-0.1 * np.arange(5)))
    assert frame["flagged"].tolist() == [True, True, False, False, False]
    assert frame["member_knn"].tolist() == [0, 1, 2, 3, 4]


@each_format
def test_the_writer_counts(suffix, tmp_path):
    with open_writer(tmp_path / f"scores{suffix}", MEMBERS) as writer:
        writer.write(table(0, 3))
        writer.write(table(3, 2))
    assert (writer.row_count, writer.flagged_count) == (5, 2)


@each_format
def test_until_the_end_there_is_only_a_partial_file(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    with open_writer(path, MEMBERS) as writer:
        writer.write(table())
        assert not path.exists()
        assert path.with_name(f"{path.name}.partial").exists()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@each_format
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(suffix, error, tmp_path):
    with pytest.raises(error):
        write_and_fail(tmp_path / f"scores{suffix}", error())
    assert list(tmp_path.iterdir()) == []


@each_format
def test_an_error_leaves_an_older_file_as_it_was(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    path.write_text("older")
    with pytest.raises(ValueError, match="stop"):
        write_and_fail(path, ValueError("stop"))
    assert path.read_text() == "older"


@each_format
def test_no_batch_at_all_is_an_empty_file_that_can_be_read(suffix, tmp_path):
    path = tmp_path / f"scores{suffix}"
    with open_writer(path, MEMBERS):
        pass
    assert len(read(path)) == 0
    if suffix != ".jsonl":
        assert list(read(path).columns) == COLUMNS


@each_format
def test_numbers_keep_every_digit(suffix, tmp_path):
    path, value = tmp_path / f"scores{suffix}", 0.1 + 0.2
    with open_writer(path) as writer:
        writer.write(ScoreTable.from_scores(["0"], [-value], [1 / 3], 0.05))
    frame = read(path)
    assert (frame["anomaly_score"][0], frame["p_value"][0]) == (value, 1 / 3)


@each_format
def test_a_batch_with_other_members_is_our_mistake(suffix, tmp_path):
    with pytest.raises(AssertionError, match="knn"), open_writer(tmp_path / f"scores{suffix}") as writer:
        writer.write(table())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text, tmp_path):
    path = tmp_path / "scores.csv"
    with open_writer(path) as writer:
        writer.write(ScoreTable.from_scores([text], [0.0], [1.0], 0.05, top_components=[[text]]))
    with path.open(newline="") as file:
        row = list(csv.reader(file))[1]
    assert row[0] == row[4] == f"'{text}".replace("\r", " ")


def test_a_negative_number_is_no_formula(tmp_path):
    path = tmp_path / "scores.csv"
    with open_writer(path) as writer:
        writer.write(ScoreTable.from_scores(["0"], [2.5], [1.0], 0.05))
    assert path.read_text().splitlines()[1].split(",")[1] == "-2.5"


def test_ordinary_text_is_left_alone():
    assert safe_cell("a.npz:3") == "a.npz:3"
    assert safe_cell(-1.0) == -1.0


def test_csv_goes_to_stdout(capsys):
    with open_writer("-", MEMBERS) as writer:
        writer.write(table())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(",") == COLUMNS
    assert len(lines) == 4


def test_json_lines_hold_json_and_no_infinity(tmp_path):
    path = tmp_path / "scores.jsonl"
    with open_writer(path) as writer:
        writer.write(ScoreTable.from_scores(["\u00e9"], [-np.inf], [0.01], 0.05))
    row = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert row["input_id"] == "\u00e9"
    assert row["anomaly_score"] is None
    assert row["flagged"] is True


def test_another_ending_names_those_known(tmp_path):
    with (
        pytest.raises(UnknownNameError, match=r"\.xlsx.*Known: \.csv, \.jsonl, \.parquet"),
        open_writer(tmp_path / "a.xlsx"),
    ):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"), open_writer(tmp_path / "nowhere/scores.csv"):
        pass


@pytest.mark.parametrize("text", ["\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"])
def test_line_breaks_and_full_width_forms_are_quoted_too(text):
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["=1+1", "fc.3", "'quoted'", "", "'"])
def test_a_quoted_cell_can_be_read_back(text):
    assert plain_cell(safe_cell(text)) == text


def test_adjusted_p_values_have_a_column_where_they_are_the_rule(tmp_path):
    path = tmp_path / "scores.csv"
    adjusted = replace(table(), adjusted_p_value=np.array([0.01, 0.5, 1.0]))
    with open_writer(path, MEMBERS, adjusted=True) as writer:
        writer.write(adjusted)
    assert list(read(path).columns) == [*COLUMNS[:3], "adjusted_p_value", *COLUMNS[3:]]
    with pytest.raises(AssertionError), open_writer(path, MEMBERS, adjusted=True) as writer:
        writer.write(table())


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_tells_of_a_table_is_there_before_it(suffix, tmp_path, monkeypatch):
    names = []
    replace_file = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(b.name), replace_file(a, b)))
    with open_writer(tmp_path / f"s{suffix}", MEMBERS, stamp={"rows": 3}) as writer:
        writer.write(table())
    assert names == [f"s{suffix}.meta.json", f"s{suffix}"]
