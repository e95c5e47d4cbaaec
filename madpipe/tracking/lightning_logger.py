"""Lightning's metrics into a run that someone else opens and closes.

Lightning's own MLFlowLogger marks the run FINISHED when `fit` returns, and asks the server once a step.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from madpipe.errors import TrackingError
from madpipe.tracking.connection import impatient
from madpipe.tracking.system_metrics import system_metrics

Rows = Sequence[tuple[int, Mapping[str, float]]]
_BUFFERED_METRICS = 1000  # what one request can carry
_BUFFERED_SECONDS = 10.0  # how far the page of a running fit may lag behind


class RunLogger(Logger):
    """Collects metrics and hands them, under `prefix`, to `write` in batches; all else about the run is left alone.

    A name that has a group already ("val/loss") keeps it. Does not implement `save`, which Lightning calls every step.
    """

    def __init__(self, write: Callable[[Rows], object], experiment: str, run_id: str, prefix: str):
        super().__init__()
        self._write_rows, self._experiment, self._run_id, self._group = write, experiment, run_id, prefix
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._written_at = time.monotonic()

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str:
        return self._run_id

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the params of a run are the workflow's to choose."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {self._grouped(name): float(value) for name, value in metrics.items() if name != "epoch"}
        self._rows.append((step or 0, values))
        full = sum(len(row) for _, row in self._rows) >= _BUFFERED_METRICS
        if full or time.monotonic() - self._written_at > _BUFFERED_SECONDS:
            self._write(measured=True)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is left. After a failure, one short try: a dead server must not hide what ended the training."""
        if status != "failed":
            self._write()
            return
        with suppress(TrackingError), impatient():
            self._write()

    def _grouped(self, name: str) -> str:
        return name if "/" in name else f"{self._group}{name}"

    def _write(self, measured: bool = False) -> None:
        rows, self._rows = self._rows, []
        if measured and rows:
            rows.append((rows[-1][0], system_metrics()))
        self._written_at = time.monotonic()
        self._write_rows(rows)
