"""Shards scored apart and merged are the table of one process; so is MLflow's batch scoring on Spark."""

import numpy as np
import pandas as pd
import pytest

from madpipe.errors import TooFewRowsError, UsageError
from madpipe.score_files import read_stamp
from madpipe.workflows.merge import merge
from madpipe.workflows.score import score

SHARDS = 4


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def inputs(own_rows, tmp_path_factory):
    """Files of 90, 5 and 30 rows, of which the last are anomalous: four shards of 31 or 32 rows cut two of them."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "a.npy", own_rows(90, 11))
    pd.DataFrame(own_rows(5, 12)).add_prefix("x_").to_csv(folder / "b.csv", index=False)
    np.savez_compressed(folder / "c.npz", x=own_rows(30, 13, anomalous=True))
    return [folder / name for name in ("a.npy", "b.csv", "c.npz")]


@pytest.fixture(scope="module")
def whole(fitted, inputs, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("whole") / "scores.parquet"
    score(str(fitted.pipeline), inputs, output=str(path), alpha=0.05, report=quiet)
    return pd.read_parquet(path)


@pytest.fixture(scope="module", params=[".parquet", ".csv", ".jsonl"])
def shards(request, fitted, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for i in range(SHARDS):
        output = str(folder / f"{i}{request.param}")
        score(str(fitted.pipeline), inputs, output=output, alpha=0.05, shard=(i, SHARDS), batch_size=7, report=quiet)
    return [folder / f"{i}{request.param}" for i in range(SHARDS)]


def test_merged_shards_are_the_table_of_one_process(shards, whole, tmp_path):
    result = merge(shards[::-1], output=str(tmp_path / "merged.parquet"), report=quiet)
    merged = pd.read_parquet(tmp_path / "merged.parquet")
    assert (result.rows, result.flagged) == (125, int(whole["flagged"].sum()))
    assert result.flagged >= 20
    exact = ["input_id", "p_value", "flagged"]
    pd.testing.assert_frame_equal(merged[exact], whole[exact], check_exact=True)
    pd.testing.assert_frame_equal(merged, whole, rtol=1e-6)


def test_a_merge_neither_replaces_a_shard_nor_takes_what_was_merged_by_discoveries(shards, tmp_path):
    with pytest.raises(UsageError, match="one of the tables to merge"):
        merge(shards, output=str(shards[0]), report=quiet)
    merge(shards, output=str(tmp_path / "all.parquet"), fdr=0.2, report=quiet)
    with pytest.raises(UsageError, match="merged with --fdr before"):
        merge([tmp_path / "all.parquet"], output=str(tmp_path / "again.parquet"), report=quiet)


def test_false_discoveries_are_not_controlled_by_cross_fitted_p_values(cross_fitted, inputs, tmp_path):
    with pytest.raises(TooFewRowsError, match="--fdr"):
        score(str(cross_fitted), inputs, output=str(tmp_path / "s.parquet"), fdr=0.1, report=quiet)


def test_false_discoveries_are_controlled_over_the_merged_rows(fitted, inputs, shards, tmp_path):
    said: list[str] = []
    merge(shards, output=str(tmp_path / "merged.parquet"), fdr=0.2, report=said.append)
    score(str(fitted.pipeline), inputs, output=str(tmp_path / "whole.parquet"), fdr=0.2, report=quiet)
    merged, whole = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("merged", "whole"))
    pd.testing.assert_frame_equal(merged, whole, rtol=1e-6)
    assert (whole["flagged"] == (whole["adjusted_p_value"] <= 0.2)).all()
    assert whole["flagged"].sum() >= 20
    # 99 calibration rows: p >= 0.01, and 0.2 k / 125 >= 0.01 from k = 7 on.
    assert said[0].startswith("Note: 99 calibration rows")
    assert "before 7 have it" in said[0]
    assert read_stamp(tmp_path / "merged.parquet").rule == {"fdr": 0.2}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_rate_that_99_calibration_rows_never_reach_is_warned_of(fitted, inputs):
    said: list[str] = []
    result = score(str(fitted.pipeline), inputs[1:2], output=None, fdr=0.009, report=said.append)
    assert result.flagged == 0
    assert said[0].startswith("Warning: nothing can be flagged at false-discovery rate 0.009: 99 calibration rows")


def test_one_shard_less_is_named_and_nothing_is_written(madpipe, shards, tmp_path):
    ended = madpipe("merge", *shards[:1], *shards[2:], "-o", tmp_path / "merged.csv")
    assert ended.code == 2
    assert ended.err == "madpipe: not all shards are there; missing: 1/4. Score them with --shard, or name them.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_shard_of_changed_inputs_is_refused(fitted, inputs, own_rows, shards, tmp_path):
    np.save(tmp_path / "a.npy", own_rows(90, 14))
    changed = [tmp_path / "a.npy", *inputs[1:]]
    output = str(tmp_path / shards[3].name)
    score(str(fitted.pipeline), changed, output=output, alpha=0.05, shard=(3, SHARDS), report=quiet)
    with pytest.raises(Exception, match="is of another run than .* list of input files"):
        merge([*shards[:3], tmp_path / shards[3].name], output=str(tmp_path / "merged.csv"), report=quiet)


def test_more_shards_than_rows_merge_too(fitted, inputs, whole, tmp_path):
    paths = [tmp_path / "made for it" / f"{i}.jsonl" for i in range(7)]
    for i, path in enumerate(paths):
        score(str(fitted.pipeline), inputs[1:2], output=str(path), alpha=0.05, shard=(i, 7), report=quiet)
    result = merge(paths, output=str(tmp_path / "merged.csv"), report=quiet)
    merged = pd.read_csv(tmp_path / "merged.csv")
    assert result.rows == 5
    np.testing.assert_allclose(merged["anomaly_score"], whole["anomaly_score"][90:95], rtol=1e-6)


@pytest.mark.slow
def test_the_commands_of_a_job_array(process, fitted, inputs, whole, tmp_path):
    for i in range(2):
        words = ("score", "--pipeline", fitted.pipeline, *inputs, "--alpha", "0.05", "--shard", f"{i}/2")
        ended = process(*words, "-o", f"{i}.csv", cwd=tmp_path)
        assert ended.code == 0, ended.err
    assert ended.err.endswith("Next: all other shards, then madpipe merge ./*.csv -o scores.parquet\n")
    ended = process("merge", "0.csv", "1.csv", "-o", "scores.parquet", "--fail-if-flagged", cwd=tmp_path)
    assert ended.code == 3
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), whole, rtol=1e-6)
