"""`madpipe decompose`: what it hands to the workflow, what it prints, and that the command it names next works."""

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from madpipe.decomposition.assessment import Assessment

KNOWN = {"mmcs": 0.5, "ml2r": 0.4, "mmcs_column": 0.9, "ml2r_column": 0.8, "mmcs_alive": 0.3, "ml2r_alive": 0.2}
KNOWN |= {"matched": 3.0, "mechanisms": 10.0, "spare": 1.0, "broken": 1.0, "matched/fc": 3.0}
MEASURED = {"l0": 2.25, "alive": 12.0, "faithfulness": 1.5e-4, "reconstruction_importance": 0.0123456}


def result_of(*figures: dict[str, dict[str, float]]) -> SimpleNamespace:
    seeds = [Assessment(k, 0.5 - 0.1 * k, own) for k, own in enumerate(figures)]
    return SimpleNamespace(
        decomposition=Path.cwd() / "out/it",
        run_id="r1",
        model_uri="models:/m-1",
        seconds=75.0,
        best=len(seeds) - 1,
        seeds=seeds,
        unsent=None,
    )


@pytest.fixture
def decomposes(stand_in, monkeypatch, tmp_path):
    """`decomposes(figures of seed 0, ...)`: the workflow gives these."""
    # Plug-in sections are checked in tests/test_config.py; importing every plug-in here would only cost time.
    monkeypatch.setattr("madpipe.config.loading.check_plugins", lambda config, source: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("task: {name: superposition}\n")
    return lambda *figures: stand_in("decompose", lambda *_, **__: result_of(*figures))


def test_the_folder_is_data_and_a_table_of_seeds_is_talk(madpipe, decomposes, tmp_path):
    decomposes({"only": KNOWN | MEASURED}, {"only": KNOWN | MEASURED | {"matched": 10.0, "broken": 0.0}})
    ended = madpipe("decompose", "x.yaml")
    assert ended.code == 0
    assert ended.out == f"{tmp_path / 'out/it'}\n"
    header, first, second, last = ended.err.splitlines()
    assert header.split("  ")[0] == "seed"
    names = ["MMCS", "ML2R", "L0", "alive", "faithfulness", "reconstruction", "description length", "matched", "broken"]
    assert [name for name in names if name in header] == names
    assert " ".join(first.split()) == "0 0.5000 0.4000 2.25 12 0.00015 0.01235 0.5 3 of 10 yes"
    assert " ".join(second.split()) == "1 (best) 0.5000 0.4000 2.25 12 0.00015 0.01235 0.4 10 of 10 no"
    assert len({len(line) for line in (header, first, second)}) == 1
    assert last.startswith("Decomposed into out/it in 1 min 15 s (2 seeds), logged as models:/m-1. Next: madpipe fit ")


def test_nothing_stands_in_the_table_of_mechanisms_nobody_knows(madpipe, decomposes):
    decomposes({"only": MEASURED})
    header, row, _ = madpipe("decompose", "x.yaml").err.splitlines()
    assert header.split() == ["seed", "L0", "alive", "faithfulness", "reconstruction", "description", "length"]
    assert row.split()[0] == "0"
    assert "best" not in row  # of one


def test_json_is_one_document_with_an_entry_per_seed(madpipe, decomposes, tmp_path):
    decomposes({"first": KNOWN | MEASURED, "second": MEASURED}, {"first": KNOWN | MEASURED, "second": MEASURED})
    ended = madpipe("decompose", "x.yaml", "--json")
    document = json.loads(ended.out)
    assert list(document) == ["decomposition", "run_id", "model_uri", "seconds", "unsent", "best_seed", "quality"]
    assert document["decomposition"] == str(tmp_path / "out/it")
    assert (document["run_id"], document["seconds"], document["best_seed"]) == ("r1", 75.0, 1)
    assert [entry["seed"] for entry in document["quality"]] == [0, 1]
    entry = document["quality"][0]
    assert (entry["mmcs"], entry["ml2r"], entry["mmcs_column"], entry["ml2r_column"]) == (0.5, 0.4, 0.9, 0.8)
    assert (entry["mmcs_alive"], entry["ml2r_alive"]) == (0.3, 0.2)
    assert (entry["matched"], entry["mechanisms"], entry["broken"], entry["alive"]) == (3, 10, True, 12)
    assert (entry["l0"], entry["faithfulness"], entry["reconstruction"]) == (2.25, 1.5e-4, 0.0123456)
    assert entry["variants"]["first"]["sites"] == {"fc": {"matched": 3}}
    assert "mmcs" not in entry["variants"]["second"]
    assert "seed  " not in ended.err


def test_options_reach_the_workflow(madpipe, decomposes, tmp_path):
    calls = decomposes({"only": MEASURED})
    madpipe("decompose", "x.yaml", "-o", "d", "--overwrite", "--tracking-uri", "sqlite:///a.db", "--set", "seed=3")
    (config,), options = calls[0]
    assert config.seed == 3
    assert (options["output"], options["overwrite"], options["tracking_uri"]) == (Path("d"), True, "sqlite:///a.db")
    assert options["base"] == tmp_path


def next_command(talk: str) -> list[str]:
    return shlex.split(talk.splitlines()[-1].partition("Next: ")[2])


def test_the_next_command_keeps_what_was_set_but_for_the_decomposition(madpipe, decomposes):
    decomposes({"only": MEASURED})
    words = ["--set", "seed=3", "--set", "decomposition.steps=5", "--set", "decomposition={method: apd}"]
    taken = 'decomposition={"from": "out/it"}'
    assert next_command(madpipe("decompose", "x.yaml", *words).err) == [
        *("madpipe", "fit", "x.yaml", "--set", "seed=3", "--set", taken, "-o", "pipeline")
    ]


def test_a_folder_that_does_not_lie_beside_the_config_is_named_whole(madpipe, decomposes, tmp_path):
    decomposes({"only": MEASURED})
    (tmp_path / "configs").mkdir()
    (tmp_path / "x.yaml").rename(tmp_path / "configs" / "x.yaml")
    taken = json.dumps({"from": str(tmp_path / "out/it")})
    assert f"decomposition={taken}" in next_command(madpipe("decompose", "configs/x.yaml").err)


def test_the_command_it_names_next_fits_a_pipeline(madpipe, write_own_model, tmp_path, monkeypatch):
    monkeypatch.chdir(write_own_model(tmp_path))
    quick = ["decomposition.steps=20", "decomposition.components=4", "decomposition.seeds=2", "tracking.enabled=false"]
    words = [word for setting in quick for word in ("--set", setting)]
    decomposed = madpipe("decompose", "config.yaml", "-o", "d e", *words, "--json")
    assert decomposed.code == 0, decomposed.err
    fitted = madpipe(*next_command(decomposed.err)[1:])
    assert fitted.code == 0, fitted.err
    assert "Taking the spd decomposition d e, seed " in fitted.err
    assert madpipe("score", "--pipeline", "pipeline", "test.npz", "-o", "scores.csv").code == 0
    again = madpipe("decompose", "config.yaml", "-o", "d e", *words, "--overwrite")
    assert again.out == f"{tmp_path / 'd e'}\n"


def test_an_existing_folder_is_left_alone(madpipe, write_own_model, tmp_path, monkeypatch):
    monkeypatch.chdir(write_own_model(tmp_path))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").touch()
    assert madpipe("decompose", "config.yaml", "-o", "d").code == 2
    ended = madpipe("decompose", "config.yaml", "-o", "d", "--overwrite")
    assert (ended.code, ended.out) == (2, "")
    assert "d exists and is no decomposition folder, so --overwrite leaves it alone" in ended.err
