"""`ThroughputMonitor`: how fast training goes, what it waits for, and how much memory it takes."""

import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from tasks.data.loading.loader import ResumableLoader
from tasks.device_copies import fetch, to_list

MUCH_WAITING = 0.2
"""Share of the time at which a word is said about it."""
SECONDS_BETWEEN_LINES = 10.0
"""Epochs that are shorter share a line."""
GIB = 2**30


class ThroughputMonitor(Callback):
    """Logs the losses, the learning rates, `perf/images_per_second`, `perf/data_wait` (the share of the time that
    training waited for its next batch) and `perf/memory_gib` (most so far), and says a line at the end of each
    epoch and of each validation."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` gets the line, in which `num_workers` are named where training waits for them."""
        self.say = say
        self.num_workers = 0
        self._epoch = self._logged = (0.0, 0, 0.0)  # time, images, waited: at the start of each
        self._images = 0
        self._step = 0
        self._rates: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._images = 0
        self._step = trainer.global_step
        self._epoch = self._logged = self._now(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._rates = learning_rates(trainer.optimizers)  # now, before the schedule changes them

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch) * trainer.world_size
        if trainer.global_step == self._step:
            return  # gradients of several batches make one step
        self._step = trainer.global_step
        if (self._step - 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            now = self._now(trainer)
            pace, wait = _since(self._logged, now)
            self._logged = now
            used, _ = memory(trainer.strategy.root_device)
            values = {"perf/images_per_second": pace, "perf/data_wait": wait, "perf/memory_gib": used / GIB}
            values |= self._rates
            if losses := getattr(pl_module, "train_losses", {}):
                (numbers,) = fetch(torch.stack(list(losses.values())))
                values |= {f"train/{name}": n for name, n in zip(losses, to_list(numbers), strict=True)}
            for logger in trainer.loggers:
                logger.log_metrics(values, step=self._step - 1)
                logger.save()  # a run that is killed loses no line

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused = self._now(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":  # the time of validation is none of training's
            seconds = self._now(trainer)[0] - self._paused[0]
            self._epoch, self._logged = ((t + seconds, n, w) for t, n, w in (self._epoch, self._logged))
            numbers, monitor = getattr(pl_module, "numbers", {}), getattr(pl_module, "monitor", None)
            if monitor in numbers and not trainer.sanity_checking:
                self.say(f"step {trainer.global_step}: {monitor} {numbers[monitor]:.3f}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = self._now(trainer)
        if trainer.current_epoch and now[0] - self._epoch[0] < SECONDS_BETWEEN_LINES:
            return
        pace, wait = _since(self._epoch, now)
        self._epoch = now
        used, size = memory(trainer.strategy.root_device)
        self.say(pace_line(trainer.current_epoch, pace, wait, used, size, num_workers=self.num_workers))

    def _now(self, trainer: pl.Trainer) -> tuple[float, int, float]:
        loader = trainer.train_dataloader
        waited = loader.waited if isinstance(loader, ResumableLoader) else 0.0
        return time.perf_counter(), self._images, waited


def learning_rates(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """The rate of each group of parameters: `lr-AdamW/backbone`."""
    return {
        f"lr-{type(optimizer).__name__}/{group['name']}": float(group["lr"])
        for optimizer in optimizers
        for group in optimizer.param_groups
    }


def _since(start: tuple[float, int, float], now: tuple[float, int, float]) -> tuple[float, float]:
    seconds = max(1e-9, now[0] - start[0])
    return (now[1] - start[1]) / seconds, min(1.0, (now[2] - start[2]) / seconds)


def pace_line(epoch: int, pace: float, wait: float, used: int, size: int | None, *, num_workers: int) -> str:
    """What there is to say of an epoch: images a second, waiting, memory, and what could be better."""
    line = f"epoch {epoch}: {pace:.3g} images/s, {wait:.0%} of the time waiting for data, {used / GIB:.1f} "
    line += "GiB of memory" if size is None else f"of {size / GIB:.0f} GiB of GPU memory"
    if wait > MUCH_WAITING:
        line += f"; more loader.num_workers (now {num_workers}) or smaller images on disk would shorten it"
    if size is not None and used < size / 2:
        line += "; a larger loader.batch_size would fit (auto finds it)"
    return line


def memory(device: torch.device) -> tuple[int, int | None]:
    """Most bytes that this process has held so far, on a GPU those of tensors there, and what the GPU has."""
    if device.type == "cuda":
        properties = cast(Any, torch.cuda.get_device_properties(device))  # pyright: ignore[reportUnknownMemberType]
        return torch.cuda.max_memory_allocated(device), properties.total_memory
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, None
