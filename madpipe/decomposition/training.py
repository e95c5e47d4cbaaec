"""The LightningModule that trains a decomposition, and the Trainer it runs under.

Lightning sees one epoch per round of many optimiser steps: its own cost per step is then small, and a checkpoint is
always at the end of a round. Steps draw their randomness from (seed, step), so a resumed run is the uninterrupted run.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import draw_batch, make_optimizer, refuse_divergence, take_step
from madpipe.errors import DamagedFileError

INNER_STEPS = 20  # optimiser steps per Lightning step: Trainer overhead falls from a third to a few per cent
CHECKPOINT_ROUNDS = 10

Progress = Callable[[int, Mapping[str, float]], None]
"""Told (steps done, loss terms averaged over instances) after every round."""


class DecompositionTraining(lightning.LightningModule):
    """Trains `method` on `trusted` [N, ...]; instance i sees the rows `rows[i]` alone."""

    step_count: Tensor

    def __init__(self, method: Method, trusted: Tensor, rows: Sequence[Tensor], seed: int):
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.seed = seed
        self._trusted, self._rows = trusted, rows
        self.register_buffer("step_count", torch.zeros((), dtype=torch.long))
        self.last_terms: dict[str, float] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.method)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        wrapped = self.optimizers()
        assert not isinstance(wrapped, list)
        start, history = int(self.step_count), []
        for step in range(start, min(start + INNER_STEPS, self.method.config.steps)):
            drawn = draw_batch(self.method, self._trusted, self._rows, step, self.seed)
            history.append(take_step(self.method, wrapped.optimizer, drawn, step))
            self.step_count += 1
        self.last_terms = mean_terms(history)
        refuse_divergence(self.last_terms, int(self.step_count))
        self.log_dict(self.last_terms, on_step=False, on_epoch=True, batch_size=1)


def mean_terms(history: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Each term averaged over instances and over the steps that have it."""
    names = {name: None for terms in history for name in terms}
    return {name: float(torch.stack([t[name].mean() for t in history if name in t]).mean()) for name in names}


class _Report(Callback):
    """Tells `progress` after each round."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, DecompositionTraining)
        self.progress(int(module.step_count), module.last_terms)


class _Save(Checkpoint):
    """Writes `last.ckpt` every few rounds and at the end.

    Lightning's own ModelCheckpoint saves when its count of optimiser steps has moved; ours never does, since the inner
    steps bypass it.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if (trainer.current_epoch + 1) % CHECKPOINT_ROUNDS == 0:
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        """Whole or not at all: a process killed here leaves the checkpoint before."""
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)


def train(
    method: Method,
    trusted: Tensor,
    rows: Sequence[Tensor],
    *,
    seed: int,
    checkpoints: Path,
    trainer_options: Mapping[str, Any],
    progress: Progress,
    logger: Any = False,
) -> None:
    """Train `method` in place. A `last.ckpt` in `checkpoints` is resumed; one is written there every few rounds.

    DamagedFileError when that file cannot be read.
    """
    module = DecompositionTraining(method, trusted, rows, seed)
    rounds = -(-method.config.steps // INNER_STEPS)
    last = checkpoints / "last.ckpt"
    if last.exists():
        _refuse_damage(last)
    _quieten_lightning()
    trainer = lightning.Trainer(
        max_epochs=rounds,
        logger=logger,
        callbacks=[_Save(last), _Report(progress)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **trainer_options,
    )
    one_batch = DataLoader(TensorDataset(torch.zeros(1)), batch_size=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")  # the target is frozen on purpose
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # one dummy batch a round
        trainer.fit(module, one_batch, ckpt_path=last if last.exists() else None, weights_only=True)


def _refuse_damage(checkpoint: Path) -> None:
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or altered file
        raise DamagedFileError(
            f"{checkpoint}: the checkpoint of an interrupted fit cannot be read ({type(error).__name__}); "
            "delete it to start over."
        ) from error


def _quieten_lightning() -> None:
    """Its notices on devices and its advertisement; errors and warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
