"""Score files read back: every digit, what each says of itself, and whether shards make a whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from madpipe.errors import ContentError, DamagedFileError, MissingFileError, UsageError
from madpipe.score_files import Input, Stamp, in_order, member_names, read_batches, read_stamp
from madpipe.scores import ScoreTable, open_writer, sidecar_of

RUN = Stamp(
    pipeline="p" * 64,
    calibration_size=99,
    inputs=(Input(name="a.npy", digest="a" * 64), Input(name="=b.npy", digest="b" * 64)),
    key=None,
    rule={"alpha": 0.01},
    total_rows=10,
    shards=3,
    rows=(0, 3),
)
SHARDS = {Path(f"{i}.csv"): replace(RUN, shard=i, rows=rows) for i, rows in enumerate([(0, 3), (3, 6), (6, 10)])}
each_format = pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])


def table(rows: int = 3, adjusted: bool = False) -> ScoreTable:
    random = np.random.default_rng(0)
    return ScoreTable(
        input_id=[f"=b.npy:{row}" for row in range(rows)],
        anomaly_score=random.normal(size=rows) * 1e5,
        p_value=random.random(rows),
        flagged=random.random(rows) < 0.5,
        top_components=["", "=fc.1; delta@fc", 'fc, "1"'] * (rows // 3),
        members={"knn": np.where(np.arange(rows) == 1, np.inf, random.normal(size=rows))},
        adjusted_p_value=random.random(rows) if adjusted else None,
    )


def written(path: Path, stamp: Stamp = RUN, adjusted: bool = False) -> Path:
    with open_writer(path, ["knn"], adjusted=adjusted, stamp=stamp.document()) as writer:
        writer.write(table(adjusted=adjusted))
    return path


@each_format
@pytest.mark.parametrize("adjusted", [False, True])
def test_a_table_comes_back_as_it_was(suffix, adjusted, tmp_path):
    path = written(tmp_path / f"s{suffix}", adjusted=adjusted)
    (back,) = read_batches(path)
    for name, column in table(adjusted=adjusted).columns().items():
        if suffix == ".jsonl" and name == "member_knn":
            column = np.where(np.isinf(column), np.nan, column)  # JSON has no infinity
        np.testing.assert_array_equal(back.columns()[name], column)
    assert member_names([path]) == ["knn"]


@each_format
def test_a_stamp_comes_back_as_it_was(suffix, tmp_path):
    assert read_stamp(written(tmp_path / f"s{suffix}")) == RUN


@each_format
def test_no_rows_come_back_as_none(suffix, tmp_path):
    with open_writer(tmp_path / f"s{suffix}", ["knn"], stamp=RUN.document()):
        pass
    assert sum(map(len, read_batches(tmp_path / f"s{suffix}"))) == 0
    assert read_stamp(tmp_path / f"s{suffix}") == RUN


@each_format
def test_a_file_without_a_stamp_is_named(suffix, tmp_path):
    with open_writer(tmp_path / f"s{suffix}"):
        pass
    with pytest.raises(MissingFileError, match="does not say what was scored"):
        read_stamp(tmp_path / f"s{suffix}")
    with pytest.raises(MissingFileError, match="no score file"):
        read_stamp(tmp_path / f"other{suffix}")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_sidecar_vouches_for_the_table_it_was_written_for_alone(suffix, tmp_path):
    path = written(tmp_path / f"s{suffix}")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedFileError, match="is not the table"):
        read_stamp(path)


def test_a_truncated_parquet_file_is_damaged(tmp_path):
    path = written(tmp_path / "s.parquet")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedFileError, match="truncated"):
        read_stamp(path)


@pytest.mark.parametrize("change", ["[1]", "{", "{}", '{"table": 1, "inputs": 3}'])
def test_a_sidecar_that_says_nothing_known_is_damaged(change, tmp_path):
    path = written(tmp_path / "s.csv")
    document = json.loads(sidecar_of(path).read_text())
    text = change.replace('"table": 1', f'"table": "{document["table"]}"')
    sidecar_of(path).write_text(text)
    with pytest.raises(DamagedFileError):
        read_stamp(path)


def test_shards_are_put_in_order():
    assert in_order(dict(reversed(SHARDS.items()))) == list(SHARDS)


def test_every_missing_shard_is_named():
    with pytest.raises(MissingFileError, match="missing: 0/3, 2/3"):
        in_order({Path("1.csv"): SHARDS[Path("1.csv")]})


def test_a_shard_given_twice_is_named():
    with pytest.raises(UsageError, match=r"shard 1/3 is there twice: 1.csv and copy.csv"):
        in_order(SHARDS | {Path("copy.csv"): SHARDS[Path("1.csv")]})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pipeline": "q" * 64}, "pipeline"),
        ({"inputs": (RUN.inputs[0], replace(RUN.inputs[1], digest="c" * 64))}, "list of input files"),
        ({"inputs": RUN.inputs[::-1]}, "list of input files"),
        ({"rule": {"alpha": 0.05}}, "--alpha"),
        ({"key": "x"}, "--key"),
        ({"shards": 4}, "shards"),
    ],
)
def test_a_shard_of_another_run_is_refused(change, told):
    with pytest.raises(UsageError, match=f"2.csv is of another run than 0.csv: its .*{told}"):
        in_order(SHARDS | {Path("2.csv"): replace(SHARDS[Path("2.csv")], **change)})


@pytest.mark.parametrize("rows", [(7, 10), (6, 9), (5, 10)])
def test_rows_that_do_not_meet_are_refused(rows):
    with pytest.raises(ContentError, match="do not make up all 10"):
        in_order(SHARDS | {Path("2.csv"): replace(SHARDS[Path("2.csv")], rows=rows)})
