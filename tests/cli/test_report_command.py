"""`madpipe report` on a real pipeline: the page shows the figures that the other commands give."""

import json
import re
import shutil
from html import unescape

import numpy as np
import pytest


@pytest.fixture(scope="module")
def inputs(fitted):
    return fitted.folder / "test.npz"  # the last 50 of 150 rows are anomalous


@pytest.fixture(scope="module")
def made(fitted, inputs, process, tmp_path_factory):
    """(page, figures): a report with labels and without controls, which have a test of their own."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    options = ("--inputs", inputs, "--label", "is_anomalous", "--alpha", "0.05", "--explain", "2", "--no-controls")
    ended = process("report", "--pipeline", fitted.pipeline, *options, "-o", path, "--json", cwd=fitted.folder)
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["report"] == str(path)
    assert document["bytes"] == path.stat().st_size < 3_000_000
    return path.read_text(), document["figures"]


@pytest.fixture
def scores(madpipe, fitted, inputs, tmp_path):
    path = tmp_path / "scores.csv"
    assert madpipe("score", "--pipeline", fitted.pipeline, inputs, "--alpha", "0.05", "-o", path).code == 0
    return path


def test_the_page_is_well_formed_and_fetches_nothing(made, read_page):
    reader = read_page(made[0])
    assert (reader.open, reader.wrong, reader.fetched, reader.run) == ([], [], [], [])
    assert made[0].count("<svg") >= 10


def test_its_separation_is_what_evaluate_says(made, madpipe, fitted, inputs):
    judged = json.loads(madpipe("evaluate", "--pipeline", fitted.pipeline, inputs, "--json").out)
    assert made[1]["evaluation"] == judged
    row = re.search(r"this pipeline \(default\)</td><td>([\d.]+)</td><td>([\d.]+)</td>", made[0])
    assert row.groups() == (f"{judged['default']['auroc']:.3f}", f"{judged['default']['tpr_at_1']:.3f}")


def test_its_flags_and_reasons_are_what_score_and_explain_say(made, madpipe, fitted, inputs, scores):
    page, figures = made
    rows = [line.split(",") for line in scores.read_text().splitlines()[1:]]
    assert figures["scores"] == {"rows": 150, "flagged": sum(row[3] == "True" for row in rows)}
    line = ("explain", "--pipeline", fitted.pipeline, inputs, "--alpha", "0.05")
    explained = json.loads(madpipe(*line, "--json").out)["explanations"][:2]
    keys = ("input_id", "p_value", "surprise_bits", "named", "restores")
    for own, theirs in zip(figures["explained"], explained, strict=True):
        assert own == {key: theirs[key] for key in keys}
    words = madpipe(*line).out.split("\n\n")[0].strip()
    assert words in unescape(page)


def test_its_decomposition_is_what_fit_measured(made, fitted):
    stored = [
        json.loads(path.read_text())["quality"]["reconstruction_alive/output"]
        for path in (fitted.pipeline / "folds").glob("*/decomposition/decomposition.json")
    ]
    assert made[1]["decomposition"]["reconstruction_alive"]["output"] == pytest.approx(np.mean(stored))
    assert f"{np.mean(stored):.3g} (" in made[0]
    assert 0.3 < made[1]["decomposition"]["agreement"]["output"] <= 1


def test_its_p_values_are_checked_on_trusted_rows_and_on_normal_ones(made):
    page, figures = made
    assert set(figures["calibration"]) == {"later half of the calibration rows", "normal rows of test.npz"}
    normal = figures["calibration"]["normal rows of test.npz"]
    assert (normal["rows"], normal["calibration_size"]) == (100, 99)
    assert normal["rates"][0]["share"] == figures["evaluation"]["default"]["fpr_at_nominal_1"]
    assert "Kolmogorov-Smirnov" in page


def test_it_says_how_to_make_it_again(made, fitted, madpipe, tmp_path):
    line = re.search(r"^madpipe report [^<]*", unescape(made[0]), re.M).group()
    words = line.split()[1:]
    words[-1] = str(tmp_path / "again.html")
    ended = madpipe(*words)
    assert ended.code == 0, ended.err
    same = (tmp_path / "again.html").read_text()
    assert same.replace(str(tmp_path / "again.html"), "") == made[0].replace(line.split()[-1], "")


def test_a_score_file_is_reported_and_its_inputs_explained(madpipe, fitted, inputs, scores, tmp_path):
    line = ("report", "--pipeline", fitted.pipeline, "--scores", scores, "--explain", "1")
    alone = madpipe(*line, "-o", tmp_path / "a.html", "--json")
    assert alone.code == 0, alone.err
    assert "the report explains them one by one" in (tmp_path / "a.html").read_text()
    both = json.loads(madpipe(*line, "--inputs", inputs, "-o", tmp_path / "b.html", "--json").out)["figures"]
    assert both["scores"] == json.loads(alone.out)["figures"]["scores"]
    assert len(both["explained"]) == 1


def test_without_scores_it_is_about_the_pipeline_alone(madpipe, fitted, tmp_path):
    ended = madpipe("report", "--pipeline", fitted.pipeline, "-o", tmp_path / "a.html", "--json")
    assert set(json.loads(ended.out)["figures"]) == {"decomposition", "calibration"}
    assert "Flagged inputs" not in (tmp_path / "a.html").read_text()
    assert "add --inputs new.npz" in ended.err


def test_a_cross_fitted_pipeline_has_its_report(madpipe, cross_fitted, own_rows, tmp_path):
    np.savez(tmp_path / "new.npz", x=own_rows(40, 5, anomalous=True))
    line = ("report", "--pipeline", cross_fitted, "--inputs", tmp_path / "new.npz", "--alpha", "0.05", "--explain", "1")
    ended = madpipe(*line, "-o", tmp_path / "a.html", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["figures"]["calibration"] == {}
    assert "within a factor of two" in (tmp_path / "a.html").read_text()


def test_a_page_is_not_written_over_unless_it_is_asked_for(madpipe, fitted, tmp_path):
    page = tmp_path / "a.html"
    page.write_text("mine")
    line = ("report", "--pipeline", fitted.pipeline, "-o", page)
    refused = madpipe(*line)
    assert (refused.code, page.read_text()) == (2, "mine")
    assert "exists already" in refused.err
    assert madpipe(*line, "--overwrite").code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [page]


def test_names_of_ones_own_files_are_shown_as_they_stand(madpipe, fitted, inputs, tmp_path):
    odd = tmp_path / "<script>alert(1)<&script>.npz"
    shutil.copy(inputs, odd)
    line = ("report", "--pipeline", fitted.pipeline, "--inputs", odd, "--explain", "0")
    assert madpipe(*line, "-o", tmp_path / "a.html").code == 0
    page = (tmp_path / "a.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;&amp;script&gt;.npz" in page


def other_scores(path):
    lines = path.read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    return "\n".join([lines[0], *(",".join([row[0], str(float(row[1]) + 5), *row[2:]]) for row in rows)])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (other_scores, "holds scores of another pipeline"),
        (lambda path: "a,b\n1,2\n", "is no table that 'madpipe score' wrote"),
        (lambda path: path.read_text().splitlines()[0] + "\n", "holds no rows"),
        (lambda path: "", "is no table that 'madpipe score' wrote"),
    ],
)
def test_other_score_files_are_refused_in_one_line(madpipe, fitted, scores, tmp_path, content, said):
    scores.write_text(content(scores))
    ended = madpipe("report", "--pipeline", fitted.pipeline, "--scores", scores, "-o", tmp_path / "a.html")
    assert (ended.code, ended.out) == (4, "")
    assert said in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not (tmp_path / "a.html").exists()


def test_a_stamp_of_another_pipeline_is_refused(madpipe, fitted, inputs, tmp_path):
    for pipeline, name in ((fitted.pipeline, "other"), (tmp_path / "other", "it")):
        if name == "it":
            shutil.copytree(fitted.pipeline, pipeline)
            manifest = json.loads((pipeline / "pipeline.json").read_text())
            (pipeline / "pipeline.json").write_text(json.dumps(manifest))  # laid out otherwise: another digest
        line = ("score", "--pipeline", pipeline, inputs, "--shard", "0/1", "-o", tmp_path / f"{name}.parquet")
        assert madpipe(*line).code == 0
    line = ("report", "--pipeline", fitted.pipeline, "--explain", "0", "-o", tmp_path / "a.html")
    refused = madpipe(*line, "--scores", tmp_path / "it.parquet")
    assert (refused.code, "holds scores of another pipeline" in refused.err) == (4, True)
    assert madpipe(*line, "--scores", tmp_path / "other.parquet").code == 0


def test_inputs_that_were_not_scored_are_refused(madpipe, fitted, scores, own_rows, tmp_path):
    np.savez(tmp_path / "other.npz", x=own_rows(150, 77))
    line = ("report", "--pipeline", fitted.pipeline, "--scores", scores, "--inputs", tmp_path / "other.npz")
    ended = madpipe(*line, "-o", tmp_path / "a.html")
    assert ended.code == 4
    assert "does not hold the scores of" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "a.txt"], "must end in .html"),
        (["-o", "nowhere/a.html"], "there is no folder nowhere"),
        (["-o", "a.html", "--label", "x"], "--label names an array or column of --inputs"),
        (["-o", "a.html", "--scores", "no.csv"], "no score file no.csv"),
        (["-o", "a.html", "--scores", "no.csv", "--alpha", "0.1"], "--scores has flags already"),
        (["-o", "a.html", "--inputs", "no.npz"], "no file no.npz"),
    ],
)
def test_what_cannot_be_meant_is_refused(madpipe, fitted, options, said):
    ended = madpipe("report", "--pipeline", fitted.pipeline, *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_controls_stand_beside_the_pipeline(madpipe, fitted, inputs, tmp_path):
    line = ("report", "--pipeline", fitted.pipeline, "--inputs", inputs, "--label", "is_anomalous", "--explain", "0")
    ended = madpipe(*line, "-o", tmp_path / "a.html", "--json")
    controls = json.loads(ended.out)["figures"]["evaluation"]["controls"]
    best = max(controls, key=lambda name: controls[name]["auroc"])
    assert f"control: {best}</td><td>{controls[best]['auroc']:.3f}</td>" in (tmp_path / "a.html").read_text()
    assert f"The other {len(controls) - 4} controls" in (tmp_path / "a.html").read_text()
