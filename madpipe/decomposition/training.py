"""The LightningModule that trains a decomposition, and the Trainer it runs under.

Lightning sees one epoch per round of many optimiser steps: its own cost per step is then small, and a checkpoint is
always at the end of a round. Steps draw their randomness from (seed, step), so a resumed run is the uninterrupted run.
The module's own count of steps says when training is over; Lightning's count of epochs does not matter.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from madpipe.decomposition.checkpoints import LAST, PARTIAL, newest_whole, take_place
from madpipe.decomposition.method import Method
from madpipe.decomposition.optimisation import (
    draw_batch,
    make_optimizer,
    refuse_broken_parameters,
    refuse_divergence,
    refuse_uneven_shares,
    take_step,
)
from madpipe.decomposition.processes import agreed, lost_process_named, own_share, take_over_state
from madpipe.decomposition.stopping import SigtermNote, Stop

INNER_STEPS = 20  # optimiser steps per Lightning step: Trainer overhead falls from a third to a few per cent
CHECKPOINT_ROUNDS = 10
AUTOCAST: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16}

Progress = Callable[[int, Mapping[str, float]], None]
"""Told (steps done, loss terms averaged over instances) after every round."""


class DecompositionTraining(lightning.LightningModule):
    """Trains `method` on `trusted` [N, ...]; instance i sees the rows `rows[i]` alone."""

    step_count: Tensor

    def __init__(self, method: Method, trusted: Tensor, rows: Sequence[Tensor], seed: int, precision: str, stop: Stop):
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.seed = seed
        self.stop, self.stopped = stop, False
        self._trusted, self._rows, self._autocast = trusted, rows, AUTOCAST[precision]
        self.register_buffer("step_count", torch.zeros((), dtype=torch.long))
        self.last_terms: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        return int(self.step_count) >= self.method.config.steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.method)

    def on_train_start(self) -> None:
        refuse_uneven_shares(self.method.config.batch_size, own_share().count)
        take_over_state(self)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A round: INNER_STEPS steps, or those until the last one, or until there is a reason to stop."""
        first = int(self.step_count)
        history = self._steps(first, min(first + INNER_STEPS, self.method.config.steps))
        self.step_count += len(history)
        self.last_terms = mean_terms(history)
        if not all(map(math.isfinite, self.last_terms.values())):
            refuse_divergence(history, first)
        self.stopped = agreed(self.stop.wanted, self.device) and not self.finished
        self.trainer.should_stop = self.finished
        self.log_dict(self.last_terms, on_step=False, on_epoch=True, batch_size=1)

    def _steps(self, first: int, end: int) -> list[dict[str, Tensor]]:
        wrapped, share, history = self.optimizers(), own_share(), []
        assert not isinstance(wrapped, list)
        for step in range(first, end):
            drawn = draw_batch(self.method, self._trusted, self._rows, step, self.seed, share)
            history.append(take_step(self.method, wrapped.optimizer, drawn, step, self._autocast))
            if self.stop.wanted and share.count == 1:  # several processes agree at the end of a round
                break
        return history


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
    """Writes a checkpoint every few rounds, at the end, and when training is stopped, which it then ends.

    Lightning's own ModelCheckpoint saves when its count of optimiser steps has moved; ours never does, since the inner
    steps bypass it.
    """

    def __init__(self, folder: Path, resumed: Path | None):
        self.folder = folder
        self.keep = resumed == folder / LAST  # one that is damaged, and was not resumed, takes no other's place
        self.rounds = 0

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        assert isinstance(module, DecompositionTraining)
        self.rounds += 1
        if module.finished or module.stopped or self.rounds % CHECKPOINT_ROUNDS == 0:
            refuse_broken_parameters(module.method, int(module.step_count) - 1)
            self._save(trainer)
        if module.stopped:
            raise module.stop.ending(int(module.step_count), module.method.config.steps)

    def _save(self, trainer: lightning.Trainer) -> None:
        """Whole or not at all: a process killed here leaves the checkpoints before."""
        partial = self.folder / PARTIAL
        try:
            trainer.save_checkpoint(partial)
        except OSError as error:  # it names a file that Lightning writes first, in a temporary folder
            raise OSError(error.errno, error.strerror, str(partial)) from error
        if trainer.is_global_zero:
            take_place(self.folder, keep=self.keep)
        self.keep = True


class _TakeSigterm(Callback):
    """Last of all who handle SIGTERM: Lightning has put its own handler in place by then."""

    def __init__(self, note: SigtermNote):
        self.note = note

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.note.take()


class _SharedBatches(DDPStrategy):
    """Lightning's processes without its wrapper, which wants one backward pass a step over every parameter.

    A step here averages gradients itself (processes.py), and may train some parameters only.
    """

    def configure_ddp(self) -> None:
        pass


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
    """Train `method` in place, on from the newest whole checkpoint in the folder `checkpoints`, where one is written
    every few rounds.

    `trainer_options` are the keys of a config's `trainer` section. It returns after the last step alone: SIGTERM ends
    in SystemExit(143), `max_time` in OutOfTimeError, both with a checkpoint at the step they came in; a loss that is
    not finite in DivergedError, with the last checkpoint left as it was.
    """
    options = dict(trainer_options)
    stop = Stop(options.pop("max_time", None))
    module = DecompositionTraining(method, trusted, rows, seed, options.pop("precision", "32-true"), stop)
    resumed = newest_whole(checkpoints)
    _quieten_lightning()
    note = SigtermNote(stop)
    trainer = lightning.Trainer(
        max_epochs=-1,
        logger=logger,
        callbacks=[_TakeSigterm(note), _Save(checkpoints, resumed), _Report(progress)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **options | {"strategy": _strategy(options)},
    )
    one_batch = DataLoader(TensorDataset(torch.zeros(1)), batch_size=1)
    with warnings.catch_warnings(), note.prepared(), lost_process_named():
        warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")  # the target is frozen on purpose
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 on torch 2.13
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # one dummy batch a round
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # terms are averaged over processes already
        trainer.fit(module, one_batch, ckpt_path=resumed, weights_only=True)


def _strategy(options: Mapping[str, Any]) -> Any:
    several = options.get("devices", 1) != 1 or options.get("num_nodes", 1) > 1
    return _SharedBatches() if several or options.get("strategy") == "ddp" else "auto"


def _quieten_lightning() -> None:
    """Its notices on devices and its advertisement; errors and warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
