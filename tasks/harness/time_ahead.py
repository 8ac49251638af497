"""How long training will take: said before it starts where that is hours, and after its first steps."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from tasks.contracts import Batch, Model
from tasks.harness.choices import SIZES

LONG = 3600.0
"""Seconds of training at which something shorter is named."""
FIRST_SECONDS = 3.0
"""Of steps, after which the rest is foretold."""
SLOW = 60.0
"""Seconds of a pass that is not repeated to know its time better."""


class TimeAhead(Callback):
    """Says once, some steps after the first, how many are ahead and how long they will take."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` gets the line."""
        self.say = say
        self._first: tuple[float, int] | None = None  # time and step behind the first step, which is slow
        self._said = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._said:
            return
        now, step = time.perf_counter(), trainer.global_step
        if self._first is None:
            self._first = (now, step)
            return
        seconds, steps = now - self._first[0], step - self._first[1]
        if steps >= 2 and seconds >= FIRST_SECONDS:
            self._said = True
            total = trainer.estimated_stepping_batches
            if math.isfinite(total):
                left = int(total) - step
                words = duration(left * (seconds / steps))
                self.say(f"{left} steps ahead, about {words} without validations")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._said = self._said or self._first is not None  # its time would be counted


def duration(seconds: float) -> str:
    """In the unit that people would say it in."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def seconds_of_an_image(
    model: Model, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]
) -> float:
    """Of forward and backward pass of `model`, one to throw away, on the CPU."""
    model.train()
    seconds = math.inf
    for _ in range(2):  # the first one is warming up
        start = time.perf_counter()
        with autocast():
            losses = model.losses(model.features(batch), batch)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        seconds = min(seconds, time.perf_counter() - start)
        if seconds > SLOW:
            break
    return seconds / len(batch)


def shorter(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int], str]:
    """A network that takes minutes where that of `spec` takes hours, the size of its images, and the words for both."""
    small = SIZES["small"]
    images = {"short_side": small.short_side, "max_size": small.max_size}
    words = " ".join(f"preprocessing.{key}={value}" for key, value in images.items())
    pyramid = spec["pyramid"] and {**spec["pyramid"], "channels": small.channels}
    found = {**spec, "backbone": {"name": small.backbone}, "pyramid": pyramid}
    return found, images, f"backbone={small.backbone} pyramid.channels={small.channels} {words}"
