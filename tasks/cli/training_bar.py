"""The bar of a training on a terminal: Lightning's, with the loss, and what is said above it in the log as well."""

import sys
import time
from typing import Any, TextIO, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from rich.file_proxy import FileProxy

from tasks.cli.tee import Tee

EVERY = 1.0
"""Seconds between two looks at the loss, for which the host waits for the device."""


class TrainingBar(RichProgressBar):
    """Draws on the terminal; `copy` gets what others print meanwhile."""

    def __init__(self, copy: TextIO | None) -> None:
        super().__init__(refresh_rate=5)
        self.copy = copy
        self._loss: float | None = None
        self._looked = 0.0

    def _init_progress(self, trainer: pl.Trainer) -> None:
        super()._init_progress(trainer)
        # rich now writes what is printed above its bar, one with it, so that no stream below can tell them apart.
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if self.copy is not None and isinstance(stream, FileProxy):  # until rich puts its own back
                setattr(sys, name, Tee(cast(TextIO, stream), self.copy))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        loss = getattr(pl_module, "train_losses", {}).get("loss") if trainer.training else None
        now = time.monotonic()
        if loss is not None and now - self._looked >= EVERY:
            self._loss, self._looked = float(loss), now
        return {} if self._loss is None else {"loss": self._loss}
