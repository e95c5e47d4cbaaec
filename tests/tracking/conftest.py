"""Real sqlite stores, one real MLflow server, and one real pipeline that is hardly trained."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import madpipe
from madpipe.config.schema import PipelineConfig
from madpipe.tracking.runs import Store, open_store
from madpipe.workflows.fit import fit

FACTORY = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
"""


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """No test leaves a setting of MLflow behind."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    assert {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")} == before


@pytest.fixture(autouse=True)
def own_folder(same_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in a folder of its own, and reaches servers on this machine directly."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first contact leaves an sqlite file with MLflow's tables, which take seconds to make."""
    return tmp_path_factory.mktemp("migrated") / "mlflow.db"


@pytest.fixture(scope="session", autouse=True)
def first_contact(migrated: Path) -> subprocess.CompletedProcess[str]:
    """A new process that opens the default store of an empty folder, with nothing of MLflow in its environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean["PYTHONPATH"] = str(Path(madpipe.__file__).parents[1])
    words = [sys.executable, "-c", "from madpipe.tracking.runs import open_store; open_store(None, 'made-first')"]
    return subprocess.run(words, cwd=migrated.parent, env=clean, capture_output=True, text=True, check=True)


@pytest.fixture
def sqlite_uri(migrated: Path, tmp_path: Path) -> str:
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def store(sqlite_uri: str) -> Store:
    return open_store(sqlite_uri, "digits")


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def server_uri(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    migrated: Path,
    mlflow_server: Callable[[Path, str], Any],
) -> Iterator[str]:
    """The address of a real `mlflow server` on loopback, on either kind of store."""
    folder = tmp_path_factory.mktemp("server")
    if request.param == "sqlite":
        shutil.copy(migrated, folder / "mlflow.db")
        backend = f"sqlite:///{folder / 'mlflow.db'}"
    else:
        backend = request.getfixturevalue("postgres")("tracking")
    server = mlflow_server(folder, backend)
    server.start()
    yield server.uri
    server.kill()


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real fitted pipeline, hardly trained, with trusted rows in it that must not be shared. Inputs are [2, 3]."""
    base = tmp_path_factory.mktemp("fitted")
    (base / "model.py").write_text(FACTORY)
    rows = np.random.default_rng(0).standard_normal((200, 2, 3)).astype(np.float32)
    np.savez(base / "trusted.npz", x=rows)
    config = PipelineConfig.model_validate(
        {
            "target": {"factory": "model.py:build"},
            "data": {"trusted": "trusted.npz", "key": "x"},
            "decomposition": {"steps": 2},
            "tracking": {"enabled": False},
            "trainer": {"enable_progress_bar": False},
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's; the tests of fitting look at them
        fit(config, base=base, output=base / "digits-pipeline", report=lambda line: None)
    assert (base / "digits-pipeline" / "trusted" / "trusted.npz").is_file()
    return base / "digits-pipeline"


@pytest.fixture(scope="module")
def shared_store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for the tests of a file that only look at what is in it."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(migrated, folder / "mlflow.db")
    return open_store(f"sqlite:///{folder / 'mlflow.db'}", "digits")
