"""Tables: which columns are inputs, and what a table may not hold."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from madpipe.data.inputs import column_names, open_inputs, read_array
from madpipe.errors import DamagedFileError, NonFiniteError, ShapeError, TooFewRowsError, UnknownNameError

TABLE = pd.DataFrame({"b": [1.5, 2.5, 3.5], "a": [1, 2, 3], "flag": [True, False, True]})
each_suffix = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


def write(folder, suffix, table):
    path = folder / f"t{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    return path


@each_suffix
def test_columns_keep_their_order(suffix, tmp_path):
    assert read_array(write(tmp_path, suffix, TABLE)).tolist() == [[1.5, 1, 1], [2.5, 2, 0], [3.5, 3, 1]]


@each_suffix
def test_a_column_of_text_is_named(suffix, tmp_path):
    with pytest.raises(ShapeError, match="column 'name'"):
        read_array(write(tmp_path, suffix, TABLE.assign(name=["p", "q", "r"])))


@each_suffix
def test_a_text_that_appears_late_is_named_too(suffix, tmp_path):
    table = pd.DataFrame({"a": ["1"] * 50 + ["oops"]})
    with pytest.raises(ShapeError, match="column 'a'"):
        list(open_inputs([write(tmp_path, suffix, table)], None, 10))


@each_suffix
def test_columns_that_are_no_inputs_can_be_left_out(suffix, tmp_path):
    path = write(tmp_path, suffix, TABLE.assign(name=["p", "q", "r"]))
    assert open_inputs([path], None, 2, without=["name", "flag"]).shape == (2,)


@each_suffix
def test_a_key_takes_the_columns_it_numbers(suffix, tmp_path):
    table = pd.DataFrame({"x_0": [1.0], "label": [9], "x_1": [2.0], "xy_1": [7.0]})
    assert read_array(write(tmp_path, suffix, table), "x").tolist() == [[1.0, 2.0]]


@each_suffix
def test_a_key_takes_the_column_of_its_name(suffix, tmp_path):
    assert read_array(write(tmp_path, suffix, TABLE), "a").tolist() == [1, 2, 3]


@each_suffix
def test_an_unknown_column_names_the_nearest(suffix, tmp_path):
    with pytest.raises(UnknownNameError, match="no column 'flags'.*Did you mean 'flag'"):
        read_array(write(tmp_path, suffix, TABLE), "flags")


@each_suffix
def test_the_names_of_the_columns_that_are_read_can_be_asked_for(suffix, tmp_path):
    path = write(tmp_path, suffix, pd.DataFrame({"x_1": [1.0], "label": [9], "x_0": [2.0]}))
    assert column_names(path) == ["x_1", "label", "x_0"]
    assert column_names(path, "x") == ["x_1", "x_0"]


def test_values_without_names_of_their_own_have_no_column_names(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)))
    assert column_names(tmp_path / "a.npz") is None
    assert column_names(write(tmp_path, ".parquet", pd.DataFrame({"x": [[1.0, 2.0]]}))) is None


@each_suffix
def test_columns_asked_for_come_in_that_order_whatever_stands_beside_them(suffix, tmp_path):
    path = write(tmp_path, suffix, TABLE.assign(name=["p", "q", "r"]))
    assert read_array(path, columns=["a", "b"]).tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]
    blocks = [x.tolist() for _, x in open_inputs([path], None, 2, columns=["a", "b"])]
    assert blocks == [[[1, 1.5], [2, 2.5]], [[3, 3.5]]]


@each_suffix
def test_a_column_asked_for_that_is_missing_is_named_with_its_file_and_the_nearest(suffix, tmp_path):
    path = write(tmp_path, suffix, TABLE)
    message = rf"t\{suffix} has no column 'flags', which was fitted on. Did you mean 'flag'\? Known: a, b, flag."
    with pytest.raises(UnknownNameError, match=message):
        read_array(path, columns=["a", "flags"])
    with pytest.raises(UnknownNameError, match=message):
        open_inputs([path], None, 2, columns=["a", "flags"])


@each_suffix
def test_a_key_still_limits_the_columns_asked_for(suffix, tmp_path):
    path = write(tmp_path, suffix, pd.DataFrame({"x_0": [1.0], "y_0": [2.0]}))
    with pytest.raises(UnknownNameError, match="no column 'x_0', which was fitted on.*'y_0'"):
        read_array(path, "y", ["x_0"])


def test_arrays_and_lists_have_no_columns_to_ask_for(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((1, 2)))
    assert read_array(tmp_path / "a.npz", columns=["b", "a"]).tolist() == [[1, 1]]
    path = write(tmp_path, ".parquet", pd.DataFrame({"x": [[1.0, 2.0]]}))
    assert read_array(path, columns=["b", "a"]).tolist() == [[1, 2]]


@each_suffix
def test_a_missing_value_is_refused_with_its_row(suffix, tmp_path):
    table = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(NonFiniteError, match="row 2"):
        list(open_inputs([write(tmp_path, suffix, table)], None, 2))


@each_suffix
def test_whole_numbers_that_turn_into_fractions_later_are_read(suffix, tmp_path):
    table = pd.DataFrame({"a": [1.0] * 20 + [0.5], "b": [2.0] * 21})
    rows = np.concatenate([x for _, x in open_inputs([write(tmp_path, suffix, table)], None, 10)])
    assert rows[-1].tolist() == [0.5, 2.0]


def test_a_csv_row_longer_than_the_header_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(DamagedFileError, match="well-formed"):
        read_array(tmp_path / "t.csv")


def test_csv_rows_all_longer_than_the_header_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n3,4,5\n")
    with pytest.raises(DamagedFileError, match="well-formed"):
        read_array(tmp_path / "t.csv")


def test_a_csv_row_shorter_than_the_header_lacks_a_value(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(NonFiniteError, match="row 1"):
        list(open_inputs([tmp_path / "t.csv"], None, 4))


def test_a_csv_with_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(TooFewRowsError, match="t.csv"):
        read_array(tmp_path / "t.csv")


def test_a_csv_file_without_a_header_is_refused_rather_than_losing_its_first_row(tmp_path):
    (tmp_path / "t.csv").write_text("0.5,1.25\n1,2\n")
    with pytest.raises(ShapeError, match="header row"):
        read_array(tmp_path / "t.csv")


def test_columns_named_by_their_numbers_are_a_header(tmp_path):
    pd.DataFrame([[5.0, 6.0]]).to_csv(tmp_path / "t.csv", index=False)
    assert read_array(tmp_path / "t.csv").tolist() == [[5.0, 6.0]]


def test_a_csv_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,\u00e9\n".encode("latin-1"))
    with pytest.raises(DamagedFileError, match="well-formed"):
        read_array(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64())], ids=str
)
def test_a_parquet_column_of_lists_gives_rows(kind, tmp_path):
    pq.write_table(pa.table({"x": pa.array([[1, 2, 3], [4, 5, 6]], kind)}), tmp_path / "t.parquet")
    assert read_array(tmp_path / "t.parquet").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_list_column_beside_others_is_chosen_with_a_key(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0]], "y": [3]}), tmp_path / "t.parquet")
    assert read_array(tmp_path / "t.parquet", "x").tolist() == [[1, 2]]
    with pytest.raises(ShapeError, match="choose one with key"):
        read_array(tmp_path / "t.parquet")


@pytest.mark.parametrize("lists", [[[1.0, 2.0], [3.0]], [[1.0, 2.0], None]], ids=["ragged", "missing"])
def test_lists_of_different_lengths_are_refused(lists, tmp_path):
    pq.write_table(pa.table({"x": pa.array(lists, pa.list_(pa.float32()))}), tmp_path / "t.parquet")
    with pytest.raises(ShapeError, match="different lengths"):
        read_array(tmp_path / "t.parquet")


def test_lists_may_not_change_length_between_blocks(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0]] * 4 + [[1.0]] * 4}), tmp_path / "t.parquet")
    with pytest.raises(ShapeError):
        list(open_inputs([tmp_path / "t.parquet"], None, 4))


def test_lists_of_text_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [["a"], ["b"]]}), tmp_path / "t.parquet")
    with pytest.raises(ShapeError, match="column 'x'"):
        read_array(tmp_path / "t.parquet")


def test_dates_are_refused(tmp_path):
    pd.DataFrame({"day": pd.to_datetime(["2020-01-01"])}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ShapeError, match="column 'day'"):
        read_array(tmp_path / "t.parquet")


def test_the_row_index_that_pandas_saves_is_no_input(tmp_path):
    pd.DataFrame({"a": [1.0, 2.0]}, index=[7, 3]).to_parquet(tmp_path / "t.parquet")
    assert read_array(tmp_path / "t.parquet").tolist() == [[1.0], [2.0]]
