"""What MLflow's own pages show of three fits: a real server, read by a real browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from madpipe.config.loading import load_config
from madpipe.workflows.evaluate import evaluate
from madpipe.workflows.fit import FitResult, fit

pytestmark = pytest.mark.soak
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,3000"),
    "--virtual-time-budget=30000",
)
SHARED = ["data.name", "decomposition.C", "decomposition.method", "decomposition.seeds", "decomposition.steps", "seed"]


class Seen(HTMLParser):
    """The words of a page in order, and where its links lead."""

    def __init__(self, html: str):
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self._unseen = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unseen += tag in ("script", "style")
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Pages:
    """`look("runs/ID")` opens a page of the experiment."""

    uri: str
    scratch: Path
    fits: list[FitResult]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def experiment(self) -> str:
        return str(self.client.get_experiment_by_name("pages").experiment_id)

    def run(self, number: int) -> Run:
        run_id = self.fits[number].run_id
        assert run_id
        return self.client.get_run(run_id)

    def look(self, page: str) -> Seen:
        assert CHROMIUM
        profile = self.scratch / re.sub(r"\W", "_", page)[:40]
        words = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", "--dump-dom", f"{self.uri}/#/{page}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
        return Seen(done.stdout)

    def look_at_run(self, run_id: str) -> Seen:
        return self.look(f"experiments/{self.experiment}/runs/{run_id}")


@pytest.fixture(scope="module")
def pages(
    write_own_model: Callable[..., Path], mlflow_server: Any, fitted: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pages]:
    if CHROMIUM is None:
        pytest.skip("needs the Debian package chromium")
    folder = write_own_model(tmp_path_factory.mktemp("pages"))
    shutil.copy(fitted.folder / "mlflow.db", folder)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    own = ["decomposition.components=4", "calibration.folds=1", "tracking.experiment=pages"]
    fits = []
    for seed, steps in enumerate((40, 60, 80)):
        config = load_config(folder / "config.yaml", [*own, f"seed={seed}", f"decomposition.steps={steps}"])
        words = {"base": folder, "output": folder / f"fit{seed}", "tracking_uri": store}
        fits.append(fit(config, **words, report=lambda line: None))
    test = folder / "test.npz"
    evaluate(str(fits[0].pipeline), test, label="is_anomalous", log=True, tracking_uri=store, report=lambda line: None)
    server = mlflow_server(folder, store)
    server.start()
    yield Pages(server.uri, tmp_path_factory.mktemp("browser"), fits)
    server.kill()


def test_the_page_of_a_pipeline_says_what_it_is_and_links_what_it_is_made_of(pages):
    detector = pages.run(0)
    page = pages.look_at_run(detector.info.run_id)
    assert "Description Scores new inputs: madpipe score --pipeline fit0 new.npz" in page.text
    assert "from 99 calibration rows of trusted." in page.text
    assert "calibration/anomaly_score_median" in page.text
    assert "Registered models" in page.text
    assert "pages v1" in page.text
    assert [link for link in page.links if link.endswith(f"runs/{pages.fits[0].decomposition_run_id}")]
    assert [link for link in page.links if "/models/pages" in link]
    assert "Input - " in page.text  # the decomposition's model, which it started from
    assert "trusted (" in page.text


def test_the_compare_page_shows_shared_params_first_and_metrics_beside_one_another(pages):
    runs, experiments = json.dumps([fitted.run_id for fitted in pages.fits]), json.dumps([pages.experiment])
    page = pages.look(f"compare-runs?runs={quote(runs)}&experiments={quote(experiments)}")
    assert "Comparing 3 Runs" in page.text
    shown = [page.text.rindex(f" {name} ") for name in SHARED]
    assert shown == sorted(shown)
    assert re.search(r"decomposition\.steps (40 60 80|80 60 40)", page.text)
    assert "calibration/anomaly_score_max" in page.text
    assert "calibration.png" in page.text


def test_the_table_of_runs_names_them_and_their_data(pages):
    page = pages.look(f"experiments/{pages.experiment}/runs")
    for fitted in pages.fits:
        name = pages.client.get_run(fitted.run_id).info.run_name
        assert page.words.count(name) >= 2  # a pipeline and its decomposition
    assert "trusted (" in page.text
    assert "evaluate test.npz" in page.text


def test_figures_lie_at_the_same_place_in_every_run(pages):
    for number in range(3):
        found = pages.client.list_artifacts(pages.run(number).info.run_id)
        assert "calibration.png" in [item.path for item in found]
    (judged,) = pages.client.search_runs([pages.experiment], "tags.`madpipe.kind` = 'evaluation'")
    assert [item.path for item in pages.client.list_artifacts(judged.info.run_id)] == ["evaluation.png"]


def test_the_page_of_an_evaluation_tells_the_figures_of_every_score(pages):
    (judged,) = pages.client.search_runs([pages.experiment], "tags.`madpipe.kind` = 'evaluation'")
    page = pages.look_at_run(judged.info.run_id)
    assert "150 inputs of test.npz, 50 anomalous." in page.text
    assert "auroc average_precision tpr_at_1" in page.text
    assert "decomposition.method spd" in page.text
