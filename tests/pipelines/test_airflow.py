"""The DAG in a real Airflow, which lives in an environment of its own: `make airflow-test`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

PYTHON = os.environ.get("MADPIPE_AIRFLOW_PYTHON", "")
DAGS = Path(__file__).resolve().parents[2] / "pipelines" / "airflow"
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not PYTHON, reason="`make airflow-test` makes an environment with Airflow, and asks for it"),
]
IMPORT = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
tasks = {task.task_id: sorted(task.downstream_task_ids) for dag in bag.dags.values() for task in dag.tasks}
print(json.dumps({"errors": bag.import_errors, "dags": list(bag.dags), "tasks": tasks}))
"""


@pytest.fixture
def airflow(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of Airflow's environment, with a home of its own and madpipe on the workers' PATH."""
    tracked = ("MLFLOW_", "AIRFLOW_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(tracked)}
    environment |= {
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [PYTHON, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


def test_airflow_imports_the_dag_without_an_error(airflow):
    found = json.loads(airflow("-c", IMPORT, str(DAGS)).stdout.splitlines()[-1])
    assert found["errors"] == {}
    assert found["dags"] == ["madpipe"]
    assert found["tasks"] == {
        "fit": ["evaluate"],
        "evaluate": ["evaluate_champion"],
        "evaluate_champion": ["promote"],
        "promote": ["score"],
        "score": [],
    }


def test_a_run_of_the_dag_ends_with_scores_of_the_champion(airflow, write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"decomposition": {"method": "spd", "steps": 40}, "calibration": {"folds": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "incoming").mkdir()
    (folder / "test.npz").rename(tmp_path / "incoming" / "day.npz")
    parameters = {
        "config": str(folder / "config.yaml"),
        "labelled": str(tmp_path / "incoming" / "day.npz"),
        "inputs": str(tmp_path / "incoming"),
        "results": str(tmp_path),
    }
    airflow("-m", "airflow", "db", "migrate")
    airflow("-m", "airflow", "dags", "test", "madpipe", "2026-01-04", "--conf", json.dumps(parameters))
    assert (tmp_path / "pipeline-2026-01-04" / "pipeline.json").is_file()
    assert list((tmp_path / "scores").rglob("day.npz.parquet"))
