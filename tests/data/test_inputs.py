"""Inputs: every format gives the same rows, whole or in batches, and every wrong file its own error."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from madpipe.data.inputs import check_rows, open_inputs, read_array, read_labels
from madpipe.errors import (
    DamagedFileError,
    MissingFileError,
    NonFiniteError,
    ShapeError,
    TooFewRowsError,
    UnknownNameError,
)

X = np.random.default_rng(0).normal(size=(23, 1, 2, 3)).astype(np.float32)
FLAT = X.reshape(23, 6)


def write(folder: Path, suffix: str, x: np.ndarray = X) -> Path:
    """x under the key "x", or as flat numeric columns where the format is a table."""
    path = folder / f"inputs{suffix}"
    columns = pd.DataFrame(x.reshape(len(x), x[0].size if len(x) else 6)).add_prefix("x_")
    match suffix:
        case ".npy":
            np.save(path, x)
        case ".npz":
            np.savez_compressed(path, x=x)
        case ".safetensors":
            save_file({"x": x}, path)
        case ".csv":
            columns.to_csv(path, index=False)
        case ".parquet":
            columns.to_parquet(path)
    return path


each_format = pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv", ".parquet"])


@each_format
def test_every_format_reads_back_what_was_written(suffix, tmp_path):
    array = read_array(write(tmp_path, suffix))
    np.testing.assert_array_equal(array.astype(np.float32).reshape(X.shape), X)


@each_format
def test_every_format_streams_the_same_rows_in_order(suffix, tmp_path):
    batches = list(open_inputs([write(tmp_path, suffix)], None, 5, shape=(1, 2, 3)))
    np.testing.assert_array_equal(np.concatenate([x for _, x in batches]), X)
    assert [len(x) for _, x in batches] == [5, 5, 5, 5, 3]


@each_format
def test_ids_are_row_numbers(suffix, tmp_path):
    stream = open_inputs([write(tmp_path, suffix)], None, 10, shape=(1, 2, 3))
    assert [name for ids, _ in stream for name in ids] == [str(row) for row in range(23)]


@each_format
def test_a_stream_can_be_read_twice(suffix, tmp_path):
    stream = open_inputs([write(tmp_path, suffix)], None, 8)
    first, second = (np.concatenate([x for _, x in stream]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@each_format
def test_the_row_count_is_known_before_reading_except_in_csv(suffix, tmp_path):
    assert open_inputs([write(tmp_path, suffix)], None, 8).row_count == (None if suffix == ".csv" else 23)


@each_format
def test_batches_are_writeable_float32(suffix, tmp_path):
    for _, x in open_inputs([write(tmp_path, suffix, X.astype(np.float64))], None, 8):
        assert x.dtype == np.float32
        assert x.flags.writeable
        assert x.flags.c_contiguous


@each_format
def test_a_file_without_rows_is_refused(suffix, tmp_path):
    with pytest.raises(TooFewRowsError, match="inputs"):
        read_array(write(tmp_path, suffix, X[:0]))


@each_format
def test_a_stream_without_rows_is_refused(suffix, tmp_path):
    with pytest.raises(TooFewRowsError, match="inputs"):
        list(open_inputs([write(tmp_path, suffix, X[:0])], None, 4))


@each_format
def test_a_nan_is_refused_with_its_file_and_row(suffix, tmp_path):
    x = X.copy()
    x[17, 0, 1, 1] = np.nan
    path = write(tmp_path, suffix, x)
    with pytest.raises(NonFiniteError, match=rf"inputs\{suffix}: row 17 .*NaN"):
        list(open_inputs([path], None, 5, shape=(1, 2, 3)))


@each_format
def test_an_empty_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"inputs{suffix}"
    path.touch()
    with pytest.raises((DamagedFileError, TooFewRowsError), match="inputs"):
        read_array(path)


@each_format
def test_a_file_of_noise_is_refused(suffix, tmp_path):
    path = tmp_path / f"inputs{suffix}"
    path.write_bytes(np.random.default_rng(1).bytes(5000))
    with pytest.raises((DamagedFileError, ShapeError), match="inputs"):
        read_array(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet"])
def test_a_file_cut_short_is_damaged(suffix, tmp_path):
    path = write(tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DamagedFileError, match="inputs"):
        read_array(path)


@given(batch_size=st.integers(1, 40), row_count=st.integers(1, 30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_batch_size_loses_or_repeats_a_row(batch_size, row_count, tmp_path):
    path = write(tmp_path, ".npz", np.arange(row_count * 2, dtype=np.float32).reshape(row_count, 2))
    batches = [x for _, x in open_inputs([path], None, batch_size)]
    np.testing.assert_array_equal(np.concatenate(batches).ravel(), np.arange(row_count * 2))
    assert max(map(len, batches)) <= batch_size


def test_several_files_are_read_in_the_order_given_with_their_names_in_the_ids(tmp_path):
    write(tmp_path, ".npz", X[:2])
    write(tmp_path, ".csv", X[2:5])
    stream = open_inputs([tmp_path / "inputs.csv", tmp_path / "inputs.npz"], None, 2, shape=(1, 2, 3))
    ids = [name for batch, _ in stream for name in batch]
    assert ids == ["inputs.csv:0", "inputs.csv:1", "inputs.csv:2", "inputs.npz:0", "inputs.npz:1"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, ".npy", X[:1])
    stream = open_inputs([tmp_path / "a/inputs.npy", tmp_path / "b/inputs.npy"], None, 2)
    assert len({name for ids, _ in stream for name in ids}) == 2


def test_row_counts_of_several_files_add_up(tmp_path):
    paths = [write(tmp_path, ".npz"), write(tmp_path, ".npy")]
    assert open_inputs(paths, None, 8).row_count == 46


def test_a_second_file_of_another_shape_is_refused_before_anything_is_read(tmp_path):
    paths = [write(tmp_path, ".npz"), write(tmp_path, ".npy", X[:, :, :, :2])]
    with pytest.raises(ShapeError, match=r"inputs.npy: rows have shape \(1, 2, 2\), and \(1, 2, 3\) is needed"):
        open_inputs(paths, None, 8)


def test_the_first_file_sets_the_shape(tmp_path):
    assert open_inputs([write(tmp_path, ".npy")], None, 8).shape == (1, 2, 3)


def test_npy_is_memory_mapped(tmp_path):
    assert isinstance(read_array(write(tmp_path, ".npy")), np.memmap)


def test_the_only_array_needs_no_key(tmp_path):
    np.savez(tmp_path / "a.npz", pixels=FLAT)
    assert read_array(tmp_path / "a.npz").shape == (23, 6)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_among_several_arrays_x_is_taken(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    np.savez(path, x=FLAT, y=np.arange(23)) if suffix == ".npz" else save_file({"x": FLAT, "y": np.arange(23)}, path)
    np.testing.assert_array_equal(read_array(path), FLAT)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_several_arrays_and_no_x_ask_for_a_key(suffix, tmp_path):
    path, arrays = tmp_path / f"a{suffix}", {"images": FLAT, "labels": np.arange(23)}
    np.savez(path, **arrays) if suffix == ".npz" else save_file(arrays, path)
    with pytest.raises(UnknownNameError, match=r"images, labels.*key"):
        read_array(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_unknown_key_names_the_nearest(suffix, tmp_path):
    path, arrays = tmp_path / f"a{suffix}", {"images": FLAT, "labels": np.arange(23)}
    np.savez(path, **arrays) if suffix == ".npz" else save_file(arrays, path)
    with pytest.raises(UnknownNameError, match=r"no array 'image'.*Did you mean 'images'"):
        read_array(path, "image")


def test_an_unknown_ending_names_those_known(tmp_path):
    path = tmp_path / "a.mat"
    path.touch()
    with pytest.raises(UnknownNameError, match=r"\.mat.*Known: \.csv, \.npy, \.npz, \.parquet, \.safetensors"):
        read_array(path)


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path, ".npz")
    with pytest.raises(MissingFileError, match=r"no file .*input\.npz; did you mean .*inputs\.npz"):
        read_array(tmp_path / "input.npz")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"there is no folder .*nowhere"):
        read_array(tmp_path / "nowhere/inputs.npz")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(MissingFileError, match="it is a folder"):
        read_array(tmp_path)


def test_no_file_at_all_is_refused():
    with pytest.raises(MissingFileError):
        open_inputs([], None, 4)


@pytest.mark.parametrize(
    "values", [np.ones((4, 2), complex), np.full((4, 2), "a"), np.zeros((4, 2), "datetime64[s]")], ids=str
)
def test_what_is_no_real_number_is_refused(values):
    with pytest.raises(ShapeError, match="booleans, integers or real numbers"):
        check_rows(values, None, "a")


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float64, ">f4"])
def test_booleans_integers_and_floats_become_float32(dtype):
    rows = check_rows(np.ones((3, 2), dtype), None, "a")
    assert rows.dtype == np.float32
    assert (rows == 1).all()


def test_a_value_too_large_for_float32_is_refused():
    with pytest.raises(NonFiniteError, match="row 105 holds a value that is too large for float32"):
        check_rows(np.array([[0.0], [1e39]]), None, "a", first_row=104)


def test_infinity_is_refused():
    with pytest.raises(NonFiniteError, match="row 0 holds a value that is NaN or infinite"):
        check_rows(np.array([[-np.inf, 1.0]]), None, "a")


def test_flat_rows_of_the_right_size_are_reshaped():
    np.testing.assert_array_equal(check_rows(FLAT, (1, 2, 3), "a"), X)


def test_rows_of_the_same_size_and_another_shape_are_not():
    with pytest.raises(ShapeError, match=r"\(1, 2, 3\), and \(1, 3, 2\) is needed"):
        check_rows(X, (1, 3, 2), "a")


def test_a_list_of_numbers_is_no_list_of_rows():
    with pytest.raises(ShapeError, match="flat list"):
        check_rows(np.arange(4.0), None, "a")


def test_one_number_each_is_a_row_where_one_is_needed():
    assert check_rows(np.arange(4.0), (1,), "a").shape == (4, 1)


@pytest.mark.parametrize("labels", [[True, False, True], [1, 0, 1], [1.0, 0.0, 1.0], [[1], [0], [1]]], ids=str)
def test_labels_are_booleans_or_zeros_and_ones(labels, tmp_path):
    np.savez(tmp_path / "a.npz", x=FLAT[:3], is_anomalous=np.array(labels))
    read = read_labels(tmp_path / "a.npz", "is_anomalous")
    assert read.dtype == bool
    assert read.tolist() == [True, False, True]


@pytest.mark.parametrize("labels", [[0, 2, 1], [0.5, 0, 1], [[1, 0], [0, 1]], [np.nan, 0, 1]], ids=str)
def test_anything_else_is_no_label(labels, tmp_path):
    np.savez(tmp_path / "a.npz", x=FLAT[:3], bad=np.array(labels))
    with pytest.raises(ShapeError, match="'bad'"):
        read_labels(tmp_path / "a.npz", "bad")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_are_read_from_a_column_of_a_table(suffix, tmp_path):
    table, path = pd.DataFrame({"a": [0.1, 0.2], "bad": [False, True]}), tmp_path / f"t{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    assert read_labels(path, "bad").tolist() == [False, True]


def test_missing_labels_name_what_there_is(tmp_path):
    np.savez(tmp_path / "a.npz", x=FLAT, anomalous=np.zeros(23))
    with pytest.raises(UnknownNameError, match="Did you mean 'anomalous'"):
        read_labels(tmp_path / "a.npz", "is_anomalous")


def test_bfloat16_asks_for_float32(tmp_path):
    header = b'{"x":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ShapeError, match="BF16; save it as float32"):
        read_array(tmp_path / "a.safetensors")
