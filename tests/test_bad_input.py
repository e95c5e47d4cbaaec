"""What cannot be meant or cannot be read ends with its exit code and one line that names it; nothing is left behind."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

QUICK = ("--set", "decomposition.steps=20", "--set", "tracking.enabled=false")


@pytest.fixture
def folder(tmp_path: Path, write_own_model, monkeypatch) -> Path:
    """The user's folder, and the current one."""
    made = tmp_path / "mine"
    made.mkdir()
    monkeypatch.chdir(made)
    return write_own_model(made)


@pytest.fixture
def refused(madpipe, folder: Path) -> Callable[..., str]:
    """Run a command that must fail with `code`: its one line, once nothing was written by it."""

    def run(code: int, *words: object) -> str:
        before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*") if path.is_file()}
        ended = madpipe(*words)
        assert (ended.code, ended.out) == (code, ""), ended.err
        lines = ended.err.splitlines()
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("madpipe: ")
        assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*") if path.is_file()} == before
        return lines[0].removeprefix("madpipe: ")

    return run


@pytest.fixture
def fit_refused(refused) -> Callable[..., str]:
    return lambda code, *settings: refused(
        code, "fit", "config.yaml", "-o", "out", *QUICK, *(word for setting in settings for word in ("--set", setting))
    )


# Configs


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("decomposition.stepz=5", "decomposition.stepz: no such key. Did you mean 'steps'?"),
        ("decompositoin.steps=5", "decompositoin: no such key. Did you mean 'decomposition'?"),
        ("target.factroy=x", "target.factroy: no such key. Did you mean 'factory'?"),
        ("data.trustd=x", "data.trustd: no such key. Did you mean 'trusted'?"),
        ("tracking.experimnt=x", "tracking.experimnt: no such key. Did you mean 'experiment'?"),
        ("calibration.fold=3", "calibration.fold: no such key. Did you mean 'folds'?"),
        ("decomposition.method=spdd", "decomposition.method: no method named 'spdd'. Did you mean 'spd'?"),
        (
            "patterns.reconstuction={}",
            "patterns.reconstuction: no extractor named 'reconstuction'. Did you mean 'reconstruction'?",
        ),
        ("patterns.reconstruction.mask=[]", "patterns.reconstruction.mask: no such key. Did you mean 'masks'?"),
        (
            "detectors.members={a: {detector: mahalanobi, patterns: outputs}}",
            "detectors.members.a.detector: no detector named 'mahalanobi'. Did you mean 'mahalanobis'?",
        ),
        (
            "detectors.members={a: {detector: knn, patterns: output}}",
            "detectors.members.a.patterns: no extractor named 'output'. Did you mean 'outputs'?",
        ),
        (
            "detectors.members={a: {detector: knn, patterns: outputs, options: {n: 3}}}",
            "detectors.members.a.options.n: no such key.",
        ),
        (
            "detectors.members={a: {detector: knn, patterns: outputs, options: {k: 1.5}}}",
            "detectors.members.a.options: The 'k' parameter",
        ),
        ("detectors.combiner.detector=soft_max", "no detector named 'soft_max'. Did you mean 'soft_maximum'?"),
        ("target.output=categories", "target.output: "),
        ("decomposition.steps=many", "decomposition.steps: "),
        ("task={name: digits}", "'task' brings its own target and data"),
        ("data=null", "'data' missing: a config needs either 'target' and 'data', or 'task'."),
    ],
)
def test_a_config_that_cannot_be_meant_ends_with_2(fit_refused, setting, said):
    line = fit_refused(2, setting)
    assert line.startswith("config.yaml: ")
    assert said in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "config.yaml: the file is empty"),
        ("a: [1", "config.yaml: "),
        ("- a\n- b", "config.yaml: a mapping of sections"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice at line 2"),
        ("target: !!python/object/apply:os.getcwd []", "tags are refused"),
        ("task: {name: digitz}", "task.name: no task named 'digitz'. Did you mean 'digits'?"),
        ("task: {name: digits, attack: blend}", "task.attack: "),
        ("task: {name: digits, atack: conj}", "task.atack: no such key. Did you mean 'attack'?"),
    ],
)
def test_a_config_file_that_is_none_ends_with_2(refused, folder, text, said):
    (folder / "config.yaml").write_text(text)
    assert said in refused(2, "fit", "config.yaml", "-o", "out")


def test_a_config_that_is_not_there_ends_with_2(refused):
    assert refused(2, "fit", "confg.yaml").startswith("no config file 'confg.yaml'.")


# The target


def test_a_glob_that_matches_no_site_names_those_there_are(fit_refused):
    assert fit_refused(2, "target.sites=['mlp.fc*']") == "target.sites: no site matches 'mlp.fc*'. Known: 0, 2."


def test_a_feature_glob_that_matches_nothing_is_found_before_training(fit_refused):
    member = "{detector: standardised_mean, patterns: reconstruction, features: ['kl_backward*']}"
    line = fit_refused(2, f"detectors.members={{a: {member}}}")
    assert line.startswith("detectors.members.a.features: no feature matches 'kl_backward*'.")
    assert "kl_forward" in line


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("my_modl.py:build", "no file my_modl.py in .*Did you mean 'my_model.py'"),
        ("my_model.py:built", "my_model.py has no function 'built'. Did you mean 'build'"),
        ("my_model.py", "'my_model.py' is not 'file.py:function' or 'package.module:function'"),
        ("no_such_package.net:build", "importing no_such_package.net failed: ModuleNotFoundError"),
        ("broken.py:build", "importing broken.py failed: SyntaxError"),
        ("raises.py:build", r"raises.py:build\(\) raised ValueError: out of luck and of lines"),
        ("number.py:build", "number.py:build returned a int, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_gives_no_network_ends_with_2(fit_refused, folder, factory, said):
    import re

    (folder / "broken.py").write_text("def build(:")
    (folder / "raises.py").write_text("def build():\n    raise ValueError('out of luck\\nand of lines')")
    (folder / "number.py").write_text("def build():\n    return 3")
    line = fit_refused(2, f"target.factory={factory}")
    assert line.startswith("target.factory: ")
    assert re.search(said, line)


def test_arguments_that_a_factory_does_not_take_are_named(fit_refused):
    assert "unexpected keyword argument 'width'" in fit_refused(2, "target.kwargs.width=3")


def test_a_weights_file_that_is_not_there_ends_with_2(fit_refused):
    assert "no file" in (line := fit_refused(2, "target.weights=weigths.safetensors"))
    assert "weigths.safetensors" in line


def rename(state: dict) -> dict:
    return {name.replace("0.weight", "fc.weight"): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename, "'0.weight' is missing"),
        (lambda state: state | {"9.weight": torch.zeros(1)}, "'9.weight' is not in the model"),
        (lambda state: state | {"0.bias": torch.zeros(5)}, r"'0.bias' is [5], the model's is [12]"),
        (lambda state: state | {"0.bias": torch.full((12,), float("nan"))}, "'0.bias' holds NaN or infinite values"),
    ],
)
def test_weights_that_do_not_fit_end_with_4_and_name_the_tensor(fit_refused, folder, change, said):
    state = change(load_file(folder / "weights.safetensors"))
    save_file(state, folder / "weights.safetensors")
    line = fit_refused(4)
    assert line.startswith("target.weights: ")
    assert "weights.safetensors" in line
    assert said in line


class Bomb:
    """Unpickling it makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
    ],
    ids=["truncated", "empty", "pickle"],
)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_weights_that_are_not_whole_or_could_run_code_end_with_4(fit_refused, folder, spoil, name):
    torch.save(load_file(folder / "weights.safetensors"), folder / "weights.pt")
    spoil(folder / name)
    line = fit_refused(4, f"target.weights={name}")
    assert f"{name} cannot be read as tensors alone" in line
    assert not (folder / "exploded").exists()


def test_a_target_that_cannot_take_the_rows_ends_with_4(fit_refused, folder):
    np.savez(folder / "trusted.npz", x=np.zeros((300, 7)))
    assert fit_refused(4).startswith("the target fails on trusted rows of shape 7: RuntimeError")


# Trusted rows


def rows_with(value: float) -> np.ndarray:
    rows = np.zeros((300, 6))
    rows[123, 4] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (rows_with(np.nan), "row 123 holds a value that is NaN or infinite"),
        (rows_with(-np.inf), "row 123 holds a value that is NaN or infinite"),
        (rows_with(1e300), "row 123 holds a value that is too large for float32"),
        (np.zeros((0, 6)), "holds no rows"),
        (np.zeros((19, 6)), "at least 20 trusted rows are needed, got 19"),
        (np.zeros(300), "one row per input"),
        (np.full((300, 6), "a"), "<U1"),
        (np.zeros((300, 6), complex), "complex128"),
        (np.array([[Bomb()] * 6] * 300), "holds a pickle, which is never loaded"),
    ],
    ids=["nan", "infinite", "too large", "empty", "too few", "flat", "text", "complex", "pickle"],
)
def test_trusted_rows_that_do_not_fit_end_with_4(fit_refused, folder, rows, said):
    np.savez(folder / "trusted.npz", x=rows)
    assert said in fit_refused(4)
    assert not (folder / "exploded").exists()


def test_a_truncated_npz_ends_with_4(fit_refused, folder):
    whole = (folder / "trusted.npz").read_bytes()
    (folder / "trusted.npz").write_bytes(whole[: len(whole) // 2])
    assert "trusted.npz is no .npz archive or is truncated" in fit_refused(4)


def test_an_npz_with_a_damaged_array_ends_with_4(fit_refused, folder):
    content = io.BytesIO()
    np.save(content, np.zeros((300, 6)))
    with zipfile.ZipFile(folder / "trusted.npz", "w") as archive:
        archive.writestr("x.npy", content.getvalue()[:-100])
    assert "truncated or altered" in fit_refused(4)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.trusted=trused.npz", "did you mean .*trusted.npz"),
        ("data.key=X", "has no array 'X'. Known: x."),
        ("data.trusted=my_model.py", "no input format named '.py'. Did you mean '.npy'.*Known: .csv"),
    ],
)
def test_a_file_or_key_that_is_not_there_ends_with_2_and_names_the_nearest(fit_refused, setting, said):
    import re

    assert re.search(said, fit_refused(2, setting))


# Where the result goes


def test_an_existing_output_ends_with_2(refused, folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("precious")
    assert "exists already" in refused(2, "fit", "config.yaml", "-o", "out", *QUICK)
    assert "is no pipeline folder" in refused(2, "fit", "config.yaml", "-o", "out", "--overwrite", *QUICK)


def test_an_output_inside_a_file_ends_with_2(refused):
    line = refused(2, "fit", "config.yaml", "-o", "config.yaml/out", *QUICK)
    assert "config.yaml/out" in line


def test_a_server_that_does_not_answer_ends_before_training(refused):
    line = refused(1, "fit", "config.yaml", "-o", "out", "--tracking-uri", "http://ada:s3cret@127.0.0.1:9")
    assert line.startswith("cannot reach the MLflow server http://127.0.0.1:9: nothing listens there.")
    assert "s3cret" not in line


def test_a_folder_for_the_store_that_is_not_there_ends_before_training(refused, folder):
    line = refused(1, "fit", "config.yaml", "-o", "out", "--tracking-uri", "sqlite:///no/such/folder/mlflow.db")
    assert f"the folder {folder / 'no/such/folder'} is not there" in line


# Scoring


@pytest.fixture
def score_refused(refused, fitted) -> Callable[..., str]:
    return lambda code, *words: refused(code, "score", "--pipeline", fitted.pipeline, *words, "-o", "scores.csv")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((5, 7)), r"rows have shape (7,), and (6,) is needed"),
        (np.zeros((5, 2, 2)), r"rows have shape (2, 2), and (6,) is needed"),
        (np.zeros((0, 6)), "holds no rows"),
        (np.full((5, 6), "a"), "<U1"),
        (np.array([[Bomb()] * 6] * 3), "holds a pickle"),
        (rows_with(np.inf), "row 123 holds a value that is NaN or infinite"),
    ],
    ids=["wide", "square", "empty", "text", "pickle", "infinite"],
)
@pytest.mark.parametrize("name", ["new.npy", "new.npz"])
def test_inputs_that_do_not_fit_end_with_4_and_leave_no_scores(score_refused, folder, rows, said, name):
    if name.endswith("npy"):
        np.save(folder / name, rows)
    else:
        np.savez(folder / name, x=rows)
    line = score_refused(4, name)
    assert name in line
    assert said in line
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_bad_row_late_in_the_stream_leaves_no_half_written_scores(refused, fitted, folder, ending):
    np.save(folder / "new.npy", rows_with(np.nan))
    words = ["score", "--pipeline", fitted.pipeline, "new.npy", "--batch-size", "10", "-o", f"scores.{ending}"]
    assert "row 123" in refused(4, *words)


def test_a_second_file_that_does_not_fit_is_found_before_the_first_is_scored(score_refused, folder):
    np.save(folder / "a.npy", np.zeros((5, 6)))
    np.save(folder / "b.npy", np.zeros((5, 7)))
    assert "b.npy" in score_refused(4, "a.npy", "b.npy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trusted.npy"], "did you mean trusted.npz?"),
        (["trusted.npz", "--key", "y"], "has no array 'y'. Known: x."),
        (["config.yaml"], "no input format named '.yaml'"),
        (["trusted.npz", "--device", "gpu0"], "no usable device named 'gpu0'"),
        ([], "missing argument"),
    ],
)
def test_what_cannot_be_scored_ends_with_2(score_refused, words, said):
    assert said in score_refused(2, *words)


def test_a_csv_column_that_is_not_numeric_ends_with_4(score_refused, folder):
    (folder / "new.csv").write_text("x_0,x_1,x_2,x_3,x_4,x_5\n1,2,3,4,5,red\n")
    assert "new.csv: column 'x_5' is not numeric" in score_refused(4, "new.csv")


def test_a_csv_without_the_column_ends_with_2_and_names_those_there_are(score_refused, folder):
    (folder / "new.csv").write_text("a,b\n1,2\n")
    line = score_refused(2, "new.csv")
    assert "new.csv" in line
    assert "Known: a, b." in line


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [
        ("no/such/folder/s.csv", 2, "no folder"),
        ("s.xlsx", 2, "the name must end in .parquet, .csv, .jsonl"),
    ],
)
def test_scores_that_cannot_be_written_are_refused_before_scoring(refused, fitted, output, code, said):
    assert said in refused(code, "score", "--pipeline", fitted.pipeline, "trusted.npz", "-o", output)


@pytest.mark.parametrize("command", ["score", "evaluate", "recalibrate"])
@pytest.mark.parametrize(("name", "said"), [("nowhere", "no pipeline folder nowhere"), (".", "is no pipeline folder")])
def test_a_pipeline_that_is_none_ends_with_2(refused, command, name, said):
    data = ["--trusted", "trusted.npz"] if command == "recalibrate" else ["trusted.npz"]
    assert said in refused(2, command, "--pipeline", name, *data)


@pytest.mark.parametrize("command", ["score", "evaluate", "recalibrate"])
@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_a_damaged_pipeline_ends_with_4_and_names_the_file(refused, fitted, folder, command, fault):
    shutil.copytree(fitted.pipeline, folder / "pipeline")
    damaged = folder / "pipeline" / "ensemble" / "combiner.skops"
    if fault == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-1])
    data = ["--trusted", "trusted.npz"] if command == "recalibrate" else ["test.npz"]
    assert f"combiner.skops: {fault}" in refused(4, command, "--pipeline", "pipeline", *data)


# Evaluation and recalibration


@pytest.mark.parametrize(
    ("labels", "words", "code", "said"),
    [
        (np.arange(150) >= 100, ["--label", "is_anomalos"], 2, "Did you mean 'is_anomalous'"),
        (np.arange(150), [], 4, "is no label; it needs one 0 or 1"),
        (np.zeros(150), [], 4, "marks none of the inputs; both kinds are needed"),
        (np.ones(150), [], 4, "marks all of the inputs; both kinds are needed"),
        (np.arange(149) >= 100, [], 4, "has 149 labels for 150 inputs"),
        (np.arange(150) >= 100, ["--figure", "no/folder/e.png"], 2, "no/folder"),
        (np.arange(150) >= 100, ["--figure", "e.gif"], 2, "must end in .png"),
    ],
)
def test_labels_and_figures_that_do_not_fit(refused, fitted, folder, labels, words, code, said):
    with np.load(fitted.folder / "test.npz") as stored:
        np.savez(folder / "test.npz", x=stored["x"], is_anomalous=labels)
    assert said in refused(code, "evaluate", "--pipeline", fitted.pipeline, "test.npz", *words)


def test_controls_without_trusted_rows_say_what_to_do(refused, fitted, folder):
    shutil.copytree(fitted.pipeline, folder / "pipeline")
    shutil.rmtree(folder / "pipeline" / "trusted")
    line = refused(2, "evaluate", "--pipeline", "pipeline", "test.npz", "--controls")
    assert "keeps no trusted rows" in line
    assert "--trusted FILE" in line


@pytest.mark.parametrize(
    ("rows", "code", "said"),
    [
        (np.zeros((19, 6)), 4, "19 rows; at least 20 trusted rows are needed"),
        (np.zeros((300, 7)), 4, "rows have shape (7,), and (6,) is needed"),
        (rows_with(np.nan), 4, "row 123"),
    ],
)
def test_rows_that_cannot_recalibrate_leave_the_pipeline_as_it_is(refused, fitted, folder, rows, code, said):
    shutil.copytree(fitted.pipeline, folder / "pipeline")
    np.savez(folder / "fresh.npz", x=rows)
    assert said in refused(code, "recalibrate", "--pipeline", "pipeline", "--trusted", "fresh.npz")


def test_a_cross_fitted_pipeline_cannot_be_recalibrated(refused, cross_fitted):
    line = refused(2, "recalibrate", "--pipeline", cross_fitted, "--trusted", "trusted.npz")
    assert "is cross-fitted, so its calibration belongs to its folds; fit again" in line


def test_a_model_in_mlflow_cannot_be_recalibrated(refused):
    line = refused(2, "recalibrate", "--pipeline", "models:/my-model@champion", "--trusted", "trusted.npz")
    assert "a model in MLflow cannot be recalibrated in its place" in line


def test_an_error_is_the_same_in_json(refused):
    assert "no config file" in refused(2, "fit", "nothing.yaml", "--json")
