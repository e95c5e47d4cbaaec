"""The same laws against a real MLflow server on this machine."""

from pathlib import Path

import numpy as np
import pytest

from madpipe.errors import TrackingError
from madpipe.tracking.model_registry import local_folder, register
from madpipe.tracking.packaging import log_pipeline
from madpipe.tracking.runs import open_store

pytestmark = pytest.mark.slow
EXAMPLE = np.ones((2, 2, 3), np.float32)


def test_runs_lineage_pipelines_and_names_work_through_a_server(
    server_uri: str, pipeline_folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    with_password = server_uri.replace("http://", "http://ada:s3cret@")  # an open server ignores it
    store = open_store(with_password, "digits")
    with store.run("decomposition", "decomposition") as first:
        first.history((step, {"train/loss": 1.0}) for step in range(1500))
        model_id = first.model("decomposition")
    with store.run("detector", "detector", {"decomposition_run_id": first.id}) as second:
        second.model_inputs([model_id])
        second.dataset(np.zeros((5, 2, 3), np.float32), "trusted.npz", "fit")
        second.text("seed: 0\n", "config/resolved.yaml")
        model_uri = log_pipeline(second, pipeline_folder, EXAMPLE)
        made = register(second, model_uri, "digits")

    finished = store.client.get_run(second.id)
    assert finished.info.status == "FINISHED"
    assert [used.model_id for used in finished.inputs.model_inputs] == [model_id]
    assert len(finished.inputs.dataset_inputs) == 1
    assert len(store.client.get_metric_history(first.id, "train/loss")) == 1500
    assert made.aliases == ("candidate", "champion")
    for form in ("models:/digits@champion", model_uri, f"runs:/{second.id}/pipeline"):
        assert (local_folder(form, trust_code=True, tracking_uri=with_password) / "pipeline.json").is_file()
    assert store.client.get_experiment(store.experiment_id).artifact_location.startswith("mlflow-artifacts:")
    assert second.address == f"{server_uri}/#/experiments/{store.experiment_id}/runs/{second.id}"
    assert "s3cret" not in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_server_is_one_line_without_the_password(server_uri: str):
    store = open_store(server_uri.replace("http://", "http://ada:s3cret@"), "digits")
    with store.run("a run", "detector") as run:
        run.params({"seed": 0})
        with pytest.raises(TrackingError) as refused:
            run.params({"seed": 1})
    assert str(refused.value).startswith(f"cannot write to {server_uri}: ")
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)
