"""What scoring costs: counted in passes of the target, timed beside its plain pass."""

from madpipe.pipeline.scorer import Pipeline
from madpipe.pipeline.scoring_cost import scoring_cost


def test_every_pass_of_every_fold_is_counted(fitted, own_rows, monkeypatch):
    monkeypatch.setattr("madpipe.pipeline.scoring_cost.REPEATS", 1)
    pipeline = Pipeline.load(fitted.pipeline)
    cost = scoring_cost(pipeline, own_rows(5, 0))
    # One clean pass, one explained network for each half of the folds where outputs count, one for hidden activations.
    assert [variant["name"] for variant in pipeline.config["decomposition"]["variants"]] == ["output", "hidden"]
    assert cost["evaluations"] == 1 + 2 + 1
    assert cost["wall_ratio"] > 1
    assert cost["scoring_seconds_per_1000"] > cost["forward_seconds_per_1000"] > 0


def test_counting_leaves_nothing_behind(fitted, own_rows, monkeypatch):
    monkeypatch.setattr("madpipe.pipeline.scoring_cost.REPEATS", 1)
    pipeline = Pipeline.load(fitted.pipeline)
    scoring_cost(pipeline, own_rows(5, 0))
    assert not any(fold.observer.method.model.target._forward_pre_hooks for fold in pipeline.ensemble.folds)
