"""Components of subcomponents through the whole product: found after training, stored, taken up, fitted on, named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from madpipe.components.checkpoint import load_json, save_json
from madpipe.config.loading import load_config
from madpipe.pipeline.decomposition_folder import DecompositionFolder
from madpipe.pipeline.folder import DECOMPOSITION, read_facts, seal
from madpipe.pipeline.scorer import Pipeline
from madpipe.workflows.fit import fit

MEMBERS = {
    "surprise": {"detector": "surprise", "patterns": "causal_importances", "features": ["output:component.*"]},
    "effects": {"detector": "mahalanobis", "patterns": "attributions"},
}
VIEWS = (
    "decomposition.steps=40",
    "patterns.causal_importances.view=components",
    "patterns.attributions.view=components",
    "scoring.view=components",
    "tracking.enabled=false",
    f"detectors.members={json.dumps(MEMBERS)}",
)


def fit_own(folder: Path, *settings: str) -> tuple[Path, list[str]]:
    said: list[str] = []
    config = load_config(folder / "config.yaml", settings)
    return fit(config, base=folder, output=folder / "pipeline", report=said.append).pipeline, said


@pytest.fixture(scope="module")
def viewed(write_own_model, tmp_path_factory) -> Path:
    folder = write_own_model(tmp_path_factory.mktemp("viewed"))
    return fit_own(folder, *VIEWS)[0]


def clusters(folder: Path) -> list[dict[str, list[int]]]:
    found: list[dict[str, list[int]]] = load_json(folder / "decomposition.json")["clusters"]
    return found


def older(decomposed: Any, folder: Path) -> Path:
    """The decomposition as it was written before there were clusters."""
    copy = Path(shutil.copytree(decomposed.path, folder / "it"))
    document = load_json(copy / "components" / "decomposition.json")
    del document["clusters"]
    save_json(document, copy / "components" / "decomposition.json")
    known = read_facts(copy, DECOMPOSITION)
    seal(copy, {key: value for key, value in known.items() if key != "clustering"}, DECOMPOSITION)
    return copy


def test_members_on_components_score_and_flags_name_components(viewed, own_rows):
    pipeline = Pipeline.load(viewed)
    scored = pipeline.score(own_rows(40, 9))
    assert set(scored.members) == {"surprise", "effects"}
    assert np.isfinite(scored.anomaly_score).all()
    fold = pipeline.ensemble.folds[0]
    named = {name for row in scored.top_components for name in row}
    assert named <= set(fold.involvement.names)
    assert any(name.startswith("component.") for name in named)


def test_what_members_read_is_the_stored_clusters(viewed, own_rows):
    stored = clusters(viewed / "folds/0/decomposition")
    fold = Pipeline.load(viewed).ensemble.folds[0]
    found = {member.name: member.detector.n_features_in_ for member in fold.members}
    counts = [1 + max(label for labels in view.values() for label in labels) for view in stored]
    assert (found["surprise"], found["effects"]) == (counts[0], sum(counts))


def test_each_alive_subcomponent_is_in_a_component_and_no_dead_one(viewed):
    method = Pipeline.load(viewed).method
    for i, site in enumerate(method.model.sites):
        for s, view in enumerate(method.component_views()):
            assert ((view.labels[site.name] >= 0) == method.alive(i)[s]).all()


def test_a_decomposition_folder_holds_the_components_of_every_seed(decomposed):
    assert len(clusters(decomposed.path / "components")) == 6  # three seeds of two variants
    assert DecompositionFolder.open(decomposed.path, "it").clustering["alpha"] == 1.0
    for seed in json.loads((decomposed.path / "quality.json").read_text())["quality"]:
        found = clusters(decomposed.path / "components")[2 * seed["seed"]]
        assert seed["components"] == 1 + max(label for labels in found.values() for label in labels)


def test_a_folder_taken_up_keeps_its_components(decomposed, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    pipeline, said = fit_own(folder, f"decomposition={{from: '{decomposed.path}', select: 1}}", *VIEWS[1:])
    assert clusters(pipeline / "folds/0/decomposition") == clusters(decomposed.path / "components")[2:4]
    assert not [line for line in said if "components" in line]


def test_a_folder_older_than_clustering_gets_its_components_and_that_is_told(decomposed, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    older(decomposed, folder)
    pipeline, said = fit_own(folder, "decomposition={from: it, select: 1}", *VIEWS[1:])
    assert "Its components are found anew, on these fit rows; it has none: it is older than clustering." in said
    assert clusters(pipeline / "folds/0/decomposition") == clusters(decomposed.path / "components")[2:4]


def test_another_clustering_section_finds_other_components_and_that_is_told(decomposed, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    settings = (f"decomposition={{from: '{decomposed.path}'}}", *VIEWS[1:], "clustering.alpha=0", "clustering.rows=50")
    pipeline, said = fit_own(folder, *settings)
    assert [line for line in said if line.endswith("has another 'clustering' section.")]
    assert all(max(map(max, view.values())) == 0 for view in clusters(pipeline / "folds/0/decomposition"))


def test_without_clustering_nothing_is_stored_and_the_scores_are_the_same(write_own_model, own_rows, tmp_path, fitted):
    folder = write_own_model(tmp_path)
    quick = ("decomposition.steps=60", "tracking.enabled=false", "clustering.enabled=false")
    pipeline, _ = fit_own(folder, *quick)
    assert clusters(pipeline / "folds/0/decomposition") is None
    rows = own_rows(30, 5)
    without, with_clusters = (Pipeline.load(place).score(rows) for place in (pipeline, fitted.pipeline))
    np.testing.assert_array_equal(without.anomaly_score, with_clusters.anomaly_score)
    assert without.top_components == with_clusters.top_components
