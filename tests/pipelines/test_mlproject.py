"""`mlflow run` really runs the project: a fit of a small network, and the scores of its pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2] / "pipelines" / "mlproject"


def mlflow_run(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{cwd / 'mlflow.db'}",
    }
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.soak
def test_mlflow_run_fits_and_scores(write_own_model, tmp_path):
    folder = write_own_model(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["decomposition"]["steps"] = 40
    config["calibration"] = {"folds": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = mlflow_run(tmp_path, "-P", f"config={folder / 'config.yaml'}", "-P", f"output={tmp_path / 'pipeline'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pipeline" / "pipeline.json").is_file()
    words = ("-e", "score", "-P", f"pipeline={tmp_path / 'pipeline'}", "-P", f"inputs={folder / 'test.npz'}")
    done = mlflow_run(tmp_path, *words, "-P", f"output={tmp_path / 'scores.csv'}")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 151  # a header and 150 inputs
    assert not list(PROJECT.glob("mlruns*"))
