"""Parts of a list of input files: every row once, under the name it has in the whole, and no byte read in vain."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from madpipe.data.inputs import open_inputs
from madpipe.errors import NonFiniteError, TooFewRowsError

X = np.arange(120, dtype=np.float32).reshape(40, 3)


def write(path: Path, x: np.ndarray) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, x)
        case ".npz":
            np.savez_compressed(path, x=x)
        case ".safetensors":
            save_file({"x": np.ascontiguousarray(x)}, path)
        case ".csv":
            pd.DataFrame(x, columns=["a", "b", "c"]).to_csv(path, index=False)
        case ".parquet":
            pd.DataFrame(x, columns=["a", "b", "c"]).to_parquet(path, index=False, row_group_size=7)
    return path


def everything(stream) -> tuple[list[str], np.ndarray]:
    batches = list(stream)
    ids = [name for names, _ in batches for name in names]
    return ids, np.concatenate([x for _, x in batches]) if batches else np.empty((0, 3))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> list[Path]:
    """Five files of every format, of 3, 10, 1, 20 and 6 rows."""
    folder = tmp_path_factory.mktemp("mixed")
    names = ("a.npy", "b.csv", "c.safetensors", "d.parquet", "e.npz")
    cuts = np.split(X, [3, 13, 14, 34])
    return [write(folder / name, rows) for name, rows in zip(names, cuts, strict=True)]


@settings(max_examples=15)  # each reads five files up to 50 times
@given(count=st.integers(1, 50), size=st.integers(1, 11))
def test_parts_one_after_the_other_are_the_whole(mixed, count, size):
    whole = open_inputs(mixed, None, size)
    parts = [everything(whole.part(i, count)) for i in range(count)]
    ids, x = everything(whole)
    assert [name for names, _ in parts for name in names] == ids
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts]), x)
    lengths = {len(names) for names, _ in parts}
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "a.csv", "a.parquet"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_part_of_any_format(tmp_path, name, order):
    path = write(tmp_path / name, np.asarray(X, order=order))
    ids, rows = everything(open_inputs([path], None, 4).part(1, 3))
    assert ids == [str(row) for row in range(13, 26)]  # 40 // 3 = 13, 80 // 3 = 26
    np.testing.assert_array_equal(rows, X[13:26])


def test_more_parts_than_rows_leave_some_empty(tmp_path):
    whole = open_inputs([write(tmp_path / "a.csv", X[:2])], None, 4)
    assert [whole.part(i, 3).row_count for i in range(3)] == [0, 1, 1]
    assert everything(whole.part(0, 3))[0] == []


def test_a_part_reads_its_own_rows_alone(tmp_path):
    """The rows before and after are NaN, which whoever reads them refuses."""
    x = np.full((40, 3), np.nan, np.float32)
    x[20:30] = X[20:30]
    whole = open_inputs([write(tmp_path / "a.npy", x)], None, 4)
    np.testing.assert_array_equal(everything(whole.part(2, 4))[1], X[20:30])
    with pytest.raises(NonFiniteError, match="row 30 holds"):
        everything(whole.part(3, 4))


def test_a_table_without_rows_is_refused_when_it_is_counted(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(TooFewRowsError, match="holds no rows"):
        open_inputs([tmp_path / "a.csv"], None, 4).part(0, 2)
