"""A user's own model and data, end to end through the command line: the config of the README, word for word."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madpipe.config.schema import DEFAULT_MEMBERS

MEMBERS = list(DEFAULT_MEMBERS)
COLUMNS = ["input_id", "anomaly_score", "p_value", "flagged", "top_components", *(f"member_{name}" for name in MEMBERS)]
METRICS = {
    *("auroc", "average_precision", "tpr_at_1", "tpr_at_5", "recall_at_nominal_1", "recall_at_nominal_5"),
    *("fpr_at_nominal_1", "fpr_at_nominal_5", "fpr_at_nominal_1_interval", "fpr_at_nominal_5_interval"),
}


def test_fit_prints_one_document_with_the_promised_keys(fitted):
    assert set(fitted.document) == {"pipeline", "run_id", "decomposition_run_id", "model_uri", "seconds", "unsent"}
    assert Path(fitted.document["pipeline"]) == fitted.pipeline
    assert fitted.document["model_uri"] == "models:/my-model/1"
    assert 0 < fitted.document["seconds"] < 600


def test_fit_talks_in_two_lines_of_what_it_does_and_what_comes_next(fitted):
    begun, ended = fitted.ended.err.splitlines()
    assert begun == (
        "trusted: 300 trusted rows, 150 to fit, 51 to validate, 99 to calibrate, in each of 4 folds; sites 0, 2."
    )
    assert ended.startswith("Fitted pipeline in ")
    assert ended.endswith("Next: madpipe score --pipeline pipeline new.npz -o scores.parquet")


def test_fit_leaves_the_pipeline_and_the_store_and_nothing_else(fitted):
    given = {"my_model.py", "weights.safetensors", "trusted.npz", "test.npz", "config.yaml", "ended.json"}
    made = {path.name for path in fitted.folder.iterdir()} - given
    assert made == {"pipeline", "mlflow.db", "mlartifacts"}


def test_the_pipeline_stands_alone(fitted, madpipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(fitted.pipeline, moved)
    np.save(tmp_path / "new.npy", np.zeros((3, 6), np.float32))
    assert madpipe("score", "--pipeline", moved, "new.npy", "-o", "s.csv").code == 0


# Scores in every form


@pytest.fixture(scope="module")
def rows_given(fitted) -> np.ndarray:
    with np.load(fitted.folder / "test.npz") as stored:
        return stored["x"]


def scored(madpipe, fitted, tmp_path: Path, ending: str, *options: object) -> pd.DataFrame:
    path = tmp_path / f"scores{ending}"
    ended = madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "-o", path, *options)
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert list(tmp_path.glob("*.partial")) == []
    return read(path)


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return pd.read_csv(path, dtype={"input_id": str}, keep_default_na=False)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_a_score_file_has_the_promised_columns_and_a_row_per_input_in_order(madpipe, fitted, tmp_path, ending):
    table = scored(madpipe, fitted, tmp_path, ending)
    assert list(table) == COLUMNS
    assert list(table.input_id) == [str(row) for row in range(150)]
    assert list(table.flagged) == list(table.p_value <= 0.01)


def test_all_forms_hold_the_same_numbers(madpipe, fitted, tmp_path):
    first, *others = (scored(madpipe, fitted, tmp_path, ending) for ending in (".parquet", ".csv", ".jsonl"))
    for other in others:
        pd.testing.assert_frame_equal(first, other, check_dtype=False, check_exact=True)


def test_stdout_is_the_table_and_stderr_the_talk(madpipe, fitted, tmp_path):
    ended = madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz")
    (tmp_path / "stdout.csv").write_text(ended.out)
    pd.testing.assert_frame_equal(read(tmp_path / "stdout.csv"), scored(madpipe, fitted, tmp_path, ".csv"))
    assert ended.err.startswith("Scored 150 inputs in ")


def test_a_batch_size_changes_no_p_value_and_no_order(madpipe, fitted, tmp_path):
    whole, small = (scored(madpipe, fitted, tmp_path, ".parquet", "--batch-size", size) for size in (1000, 7))
    assert np.array_equal(whole.p_value, small.p_value)
    assert small.anomaly_score.to_numpy() == pytest.approx(whole.anomaly_score.to_numpy(), rel=1e-5)
    assert list(whole.input_id) == list(small.input_id)


@pytest.mark.parametrize("ending", [".npy", ".csv", ".parquet", "_flat.npz"])
def test_the_same_inputs_in_another_format_get_the_same_scores(madpipe, fitted, tmp_path, rows_given, ending):
    path = tmp_path / f"inputs{ending}"
    frame = pd.DataFrame(rows_given, columns=[f"x_{i}" for i in range(6)])
    match ending:
        case ".npy":
            np.save(path, rows_given)
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
        case _:
            np.savez_compressed(path, x=rows_given.astype(np.float64))
    ended = madpipe("score", "--pipeline", fitted.pipeline, path, "-o", tmp_path / "s.parquet")
    assert ended.code == 0, ended.err
    expected = scored(madpipe, fitted, tmp_path, ".parquet")
    assert np.array_equal(pd.read_parquet(tmp_path / "s.parquet").p_value, expected.p_value)


def test_several_files_are_told_apart_by_their_names(madpipe, fitted, tmp_path, rows_given):
    np.save(tmp_path / "a.npy", rows_given[:2])
    np.save(tmp_path / "b.npy", rows_given[2:5])
    madpipe(
        "score", "--pipeline", fitted.pipeline, tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "s.parquet"
    )
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert list(table.input_id) == ["a.npy:0", "a.npy:1", "b.npy:0", "b.npy:1", "b.npy:2"]
    assert np.array_equal(table.p_value, scored(madpipe, fitted, tmp_path, ".parquet").p_value[:5])


def test_the_key_is_the_one_of_the_fit_unless_another_is_given(madpipe, fitted, tmp_path, rows_given):
    np.savez(tmp_path / "two.npz", x=rows_given, other=np.zeros((3, 6)))
    for options, rows in (((), 150), (("--key", "other"), 3)):
        ended = madpipe("score", "--pipeline", fitted.pipeline, tmp_path / "two.npz", "--json", *options)
        assert json.loads(ended.out)["rows"] == rows


def test_anomalies_are_flagged_and_the_summary_says_what_to_do_next(madpipe, fitted, tmp_path):
    table = scored(madpipe, fitted, tmp_path, ".parquet")
    assert table.flagged[100:].all()
    assert table.flagged[:100].mean() <= 0.05  # the upper end of the 95 % interval for 99 and 100 rows
    ended = madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "-o", tmp_path / "s.csv")
    flagged = int(table.flagged.sum())
    assert f"{flagged} flagged at p <= 0.01 -> {tmp_path / 's.csv'}. Next: read top_components" in ended.err


def test_top_components_name_components_and_deltas_of_the_sites(madpipe, fitted, tmp_path):
    table = scored(madpipe, fitted, tmp_path, ".parquet")
    assert list(table.top_components != "") == list(table.p_value <= 0.05)
    names = {name for row in table.top_components if row for name in row.split("; ")}
    assert all(name.removeprefix("delta@").split(":")[-1].split(".")[0] in ("0", "2") for name in names)
    assert table.top_components[100:].str.contains("delta@0").mean() > 0.5  # they excite what trusted rows never did


def test_scores_are_continuous(madpipe, fitted, tmp_path):
    assert scored(madpipe, fitted, tmp_path, ".parquet").anomaly_score.nunique() == 150


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-if-flagged",), 3)])
def test_flagged_inputs_fail_a_script_only_where_it_asks(madpipe, fitted, tmp_path, options, code):
    ended = madpipe(
        "score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "-o", tmp_path / "s.csv", *options
    )
    assert ended.code == code
    assert (tmp_path / "s.csv").is_file()


def test_inputs_of_which_none_is_flagged_do_not_fail_a_script(madpipe, fitted, tmp_path, own_rows):
    np.save(tmp_path / "calm.npy", np.zeros((4, 6), np.float32))
    assert madpipe("score", "--pipeline", fitted.pipeline, tmp_path / "calm.npy", "--fail-if-flagged").code == 0


def test_an_alpha_that_nothing_can_reach_warns_and_says_how_many_rows_it_takes(madpipe, fitted):
    ended = madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--alpha", "0.001", "--json")
    assert ended.code == 0
    assert json.loads(ended.out)["flagged"] == 0
    assert ended.err.splitlines()[0] == (
        "Warning: nothing can be flagged at alpha 0.001: it takes 999 calibration rows, "
        "this pipeline has 99 (smallest p-value 0.01)."
    )


def test_the_smallest_alpha_that_can_be_reached_does_not_warn(madpipe, fitted):
    ended = madpipe("score", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--alpha", "0.01", "--json")
    assert "Warning" not in ended.err
    assert json.loads(ended.out)["flagged"] >= 50


# Evaluation


def test_evaluate_prints_the_promised_keys(madpipe, fitted):
    ended = madpipe(
        "evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--label", "is_anomalous", "--json"
    )
    document = json.loads(ended.out)
    assert ended.code == 0
    assert set(document["default"]) == METRICS
    assert set(document["members"]) == set(MEMBERS)
    assert all(set(metrics) == METRICS for metrics in document["members"].values())


def test_evaluate_separates_what_trusted_rows_never_used(madpipe, fitted):
    ended = madpipe("evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--json")
    default = json.loads(ended.out)["default"]
    assert default["auroc"] > 0.99
    assert default["recall_at_nominal_1"] > 0.9
    low, high = default["fpr_at_nominal_5_interval"]
    assert low <= default["fpr_at_nominal_5"] <= high


def test_evaluate_compares_with_controls_and_draws(madpipe, fitted, tmp_path):
    figure = tmp_path / "e.png"
    ended = madpipe(
        *("evaluate", "--pipeline", fitted.pipeline, fitted.folder / "test.npz", "--json", "--controls"),
        *("--trusted", fitted.folder / "trusted.npz", "--figure", figure),
    )
    controls = json.loads(ended.out)["controls"]
    assert {"input_mahalanobis", "output_entropy", "student_kl", "trusted_copy_kl", "activations_lof"} <= set(controls)
    assert all(set(metrics) == METRICS | {"passes"} for metrics in controls.values())
    assert figure.read_bytes().startswith(b"\x89PNG")
