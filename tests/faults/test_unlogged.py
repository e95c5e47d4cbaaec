"""A fit that is stopped after its folder has appeared, and before it is logged, is logged by the same command."""

import pytest
from mlflow import MlflowClient

from madpipe.config.loading import load_config
from madpipe.errors import MissingFileError, TrackingError
from madpipe.workflows.fit import fit
from madpipe.workflows.fit_runs import FitRecord
from tests.faults.conftest import SMALL, final


@pytest.mark.soak
def test_what_is_published_and_not_logged_is_logged_once_by_the_same_command(place, monkeypatch, tried):
    store = f"sqlite:///{place.folder / 'mlflow.db'}"

    def again(*settings: str) -> None:
        chosen = load_config(place.folder / "config.yaml", [*SMALL, "decomposition.steps=20", *settings])
        fit(chosen, base=place.folder, output=place.output, tracking_uri=store, report=lambda line: None)

    def fails(*_):
        raise TrackingError("the disk of the store is full.")

    with monkeypatch.context() as patched:
        patched.setattr(FitRecord, "log_detectors", fails)
        with pytest.raises(TrackingError, match="is complete, but could not be logged: .* The same command logs it"):
            again()
    tried("stopped between a whole result and its logging")
    made = final(place.output)
    with pytest.raises(MissingFileError, match="exists already"):
        again("seed=7")  # another fit does not take its place
    again()
    assert final(place.output) == made
    assert not (place.folder / "result.partial").exists()
    assert place.runs() == [("decomposition", "FINISHED"), ("detector", "FINISHED")]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("faults")
    models = client.search_logged_models([experiment.experiment_id])
    assert sorted(model.name for model in models) == ["decomposition", "pipeline"]
    assert len(client.search_model_versions("name = 'faults'")) == 1
