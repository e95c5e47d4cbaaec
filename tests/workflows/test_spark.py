"""MLflow's spark_udf on a local Spark gives what the command gives: the program of docs/operations.md, run."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from madpipe.workflows.score import score

ROOT = Path(__file__).parents[2]
LOCAL = '.master("local[2]").config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")'


def documented_program() -> str:
    text = (ROOT / "docs" / "operations.md").read_text()
    (program,) = re.findall(r"```python\n(.*?spark_udf.*?)```", text, re.DOTALL)
    return program.replace("SparkSession.builder", f"SparkSession.builder{LOCAL}")


@pytest.mark.soak
def test_spark_gives_the_scores_of_the_command(fitted, own_rows, tmp_path):
    if importlib.util.find_spec("pyspark") is None:
        pytest.skip("needs pyspark: pip install 'madpipe[pyspark]'")
    if shutil.which("java") is None:
        pytest.skip("needs a Java 17 runtime (Debian: openjdk-17-jre-headless)")
    rows = np.concatenate([own_rows(400, 90), own_rows(100, 91, anomalous=True)])
    np.save(tmp_path / "new.npy", rows)
    pd.DataFrame({"row": np.arange(len(rows)), "x": list(rows)}).to_parquet(tmp_path / "new.parquet", index=False)
    program = documented_program().replace("models:/madpipe@champion", "models:/my-model/1")
    environment = os.environ | {"MLFLOW_TRACKING_URI": fitted.store_uri, "SPARK_LOCAL_IP": "127.0.0.1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    score(
        str(fitted.pipeline),
        [tmp_path / "new.npy"],
        output=str(tmp_path / "scores.parquet"),
        alpha=0.05,
        report=lambda line: None,
    )
    ours = pd.read_parquet(tmp_path / "scores.parquet")
    theirs = pd.read_parquet(tmp_path / "scores").sort_values("row", ignore_index=True)
    assert theirs["row"].tolist() == list(range(500))
    columns = ["anomaly_score", "p_value", "flagged", "top_components"]
    pd.testing.assert_frame_equal(theirs[columns], ours[columns], rtol=1e-6)
    assert ours["flagged"].sum() > 50
