"""The logger writes a real Trainer's metrics in few requests and leaves the run's status alone."""

import os
import signal

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from madpipe.tracking import lightning_logger
from madpipe.tracking.runs import Run, Store

pytestmark = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\):FutureWarning")  # Lightning 2.6


class Halving(LightningModule):
    """Fits nothing; logs the step's number, and does `at_step` on step 5."""

    def __init__(self, at_step=lambda: None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.at_step = at_step

    def training_step(self, batch, index):
        if index == 5:
            self.at_step()
        self.log_dict({"loss": float(index), "val/loss": 1.0})
        return (self.weight * batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run: Run, module: LightningModule) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=run.lightning_logger(),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(10, 1))))


def test_every_step_of_a_training_is_stored_in_one_request(store: Store, monkeypatch: pytest.MonkeyPatch):
    requests: list[int] = []
    with store.run("a run", "decomposition") as run:
        log_batch = store.client.log_batch
        monkeypatch.setattr(store.client, "log_batch", lambda *a, **k: requests.append(1) or log_batch(*a, **k))
        fit(run, Halving())
        assert len(requests) == 1
        assert store.client.get_run(run.id).info.status == "RUNNING"
    history = store.client.get_metric_history(run.id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(10)]


def test_a_name_with_a_group_keeps_it_and_the_epoch_is_left_out(store: Store):
    with store.run("a run", "decomposition") as run:
        fit(run, Halving())
    assert set(store.client.get_run(run.id).data.metrics) == {"train/loss", "val/loss"}


def test_metrics_are_written_when_the_buffer_is_full(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lightning_logger, "_BUFFERED_METRICS", 4)
    with store.run("a run", "decomposition") as run:
        logger = run.lightning_logger()
        for step in range(5):
            logger.log_metrics({"loss": 1.0}, step)
        assert len(store.client.get_metric_history(run.id, "train/loss")) == 4


def test_what_was_logged_before_a_failure_is_stored(store: Store):
    def fail() -> None:
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"), store.run("a run", "decomposition") as run:
        fit(run, Halving(fail))
    assert store.client.get_run(run.id).info.status == "FAILED"
    assert len(store.client.get_metric_history(run.id, "train/loss")) == 5


def test_sigterm_in_a_training_waits_for_the_end_of_the_step_and_kills_the_run(store: Store):
    with pytest.raises(SystemExit), store.run("a run", "decomposition") as run:
        fit(run, Halving(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert store.client.get_run(run.id).info.status == "KILLED"
    # Step 5, in which the signal came, was finished and logged: steps 0 to 5.
    assert len(store.client.get_metric_history(run.id, "train/loss")) == 6
