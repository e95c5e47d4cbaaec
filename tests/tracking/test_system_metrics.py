"""System metrics come with a long run's others where psutil is there, and never where it is not."""

import sys

import pytest

from madpipe.tracking import lightning_logger, system_metrics
from madpipe.tracking.lightning_logger import Rows, RunLogger


@pytest.fixture(autouse=True)
def looked_for_anew():
    system_metrics._process.cache_clear()
    yield
    system_metrics._process.cache_clear()


def written(steps: int) -> list[Rows]:
    batches: list[Rows] = []
    logger = RunLogger(batches.append, "experiment", "run", "train/")
    for step in range(steps):
        logger.log_metrics({"loss": 1.0}, step)
    logger.finalize("success")
    return batches


def test_without_psutil_nothing_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert system_metrics.system_metrics() == {}


def test_with_psutil_every_batch_of_a_long_run_has_them_at_its_last_step(monkeypatch):
    pytest.importorskip("psutil", reason="needs the pip package psutil")
    monkeypatch.setattr(lightning_logger, "_BUFFERED_SECONDS", -1.0)  # every row is late
    batches = written(2)
    assert [[step for step, _ in rows] for rows in batches[:2]] == [[0, 0], [1, 1]]
    measured = batches[0][-1][1]
    assert 0 <= measured["system/cpu_utilization_percentage"] <= 100
    assert 0 < measured["system/process_memory_usage_megabytes"] < measured["system/system_memory_usage_megabytes"]


def test_a_short_run_has_none():
    names = {name for rows in written(5) for _, values in rows for name in values}
    assert names == {"train/loss"}
