"""Checkpoints that lose nothing: written whole, and saved in time."""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from tasks.distributed import largest
from tasks.files import write_whole
from tasks.harness.settings import CheckpointSettings

# Ctrl-C, the end, and the warning that schedulers send before it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_FILE = re.compile(r"best(-\d+)?\.ckpt")  # names that `BestCheckpoint` gives
FRESH = 60.0
"""Seconds for which a checkpoint need not be saved again before a validation."""
STEPS_BETWEEN_AGREEMENTS = 10  # over ranks, on whether one of them got a signal


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes each checkpoint beside its place and renames it, so that a name never holds half a file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path, full = Path(path), None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(path, same_ending=False) as partial:
                try:
                    torch.save(checkpoint, partial)
                finally:
                    full = _full(path)  # before the partial file goes, which makes room
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            reason = full or str(error)
            advice = (
                f"make room, then resume with resume={path.parent.parent}"
                if path.exists()
                else "make room, then start the run again: it has no checkpoint yet"
            )
            raise OSError(f"cannot write the checkpoint {path} ({reason}); {advice}") from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes one checkpoint file; nothing that is not one. Lightning would delete folders too, and takes the
        names from a file."""
        path = Path(path)
        if _FILE.fullmatch(path.name) and path.is_file():
            path.unlink()


def _full(path: Path) -> str | None:
    """What to say of a disk without room; None where it has some."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < 1 << 20:
            return f"No space left on device: the disk of {path.parent} is full"
    return None


def ignore_early_warnings() -> None:
    """Lets SIGUSR1, a scheduler's warning, pass while a run is set up: there is nothing to save yet, and what the
    signal does by itself is end the program."""
    with contextlib.suppress(ValueError):  # outside the main thread
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def checkpoints(
    folder: str | Path, monitor: str, settings: CheckpointSettings, *, say: Callable[[str], None]
) -> tuple["BestCheckpoint", "LastCheckpoint"]:
    """What keeps the checkpoints of a run in `folder`: the best in the metric `monitor`, of which higher is better,
    and the last. `say` gets what there is to tell a person."""
    best = BestCheckpoint(
        dirpath=folder,
        filename="best" if settings.keep_best == 1 else "best-{step}",
        auto_insert_metric_name=False,
        monitor=monitor,
        mode="max",
        save_top_k=settings.keep_best,
        enable_version_counter=False,
        save_on_train_epoch_end=False,  # a validation that a resumed run makes up for ends no epoch
    )
    return best, LastCheckpoint(folder, settings, say)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, in whose state files have names and no folders: a run that was moved goes on all the same, and a
    checkpoint from elsewhere names no file outside the run."""

    def state_dict(self) -> dict[str, Any]:
        return self._with_paths(super().state_dict(), lambda path: Path(path).name) | {"dirpath": ""}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.dirpath is not None
        folder = str(self.dirpath)
        self.check_state(state_dict)
        state = self._with_paths(state_dict, lambda name: os.path.join(folder, name))
        super().load_state_dict(state | {"dirpath": folder})
        self.current_score = state["current_score"]  # which Lightning leaves out

    @classmethod
    def check_state(cls, state: dict[str, Any]) -> None:
        """Raises ValueError for a state that `state_dict` does not give, such as the name of a file elsewhere."""
        scores = [
            state[key] for key in ("best_model_score", "current_score", "kth_value") if state[key] is not None
        ]
        scores += state["best_k_models"].values()
        names = [state[key] for key in cls._PATHS if state[key] != ""]
        names += state["best_k_models"].keys()
        for name in names:
            if not isinstance(name, str) or not _FILE.fullmatch(name):
                raise ValueError(
                    f"it names {name!r:.80} as a checkpoint of the run, which is not the name of one"
                )
        if any(not isinstance(score, Tensor) or score.numel() != 1 for score in scores):
            raise ValueError("the scores of its checkpoints are not numbers")

    _PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")

    @classmethod
    def _with_paths(cls, state: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
        return {
            **state,
            **{key: state[key] and change(state[key]) for key in cls._PATHS},
            "best_k_models": {change(path): score for path, score in state["best_k_models"].items()},
        }


class StoppedInValidationError(Exception):
    """A signal asked the run to end while it validated; `last.ckpt` is of before."""


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` as fresh as the settings say, and saves it when a signal asks the run to end.

    Also saved after every validation, and before one unless that was within the last minute: a validation takes
    long, and a signal ends it after the batch. `stopped_by` is the signal that ended the run, None without one. A
    signal to one rank ends all of them.
    """

    def __init__(self, folder: str | Path, settings: CheckpointSettings, say: Callable[[str], None]) -> None:
        self._say = say
        self.path = Path(folder) / "last.ckpt"
        self.settings = settings
        self.stopped_by: int | None = None
        self._saved_at = time.monotonic()
        self._saved_step = self._step = 0
        self._previous: dict[int, Any] = {}
        self._launcher: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._step = trainer.global_step
        self._launcher = trainer.strategy.launcher
        with contextlib.suppress(ValueError):  # outside the main thread there are no signals to catch
            self._previous = {number: signal.signal(number, self._ask_to_stop) for number in SIGNALS}
            # Lightning no longer sees a SIGTERM, and would ask for it before each batch of several ranks: a broadcast
            # that each of them waits for.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # pyright: ignore[reportPrivateUsage]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation, whose gradients no checkpoint holds
        self._step = trainer.global_step
        is_late = time.monotonic() - self._saved_at > 60 * self.settings.every_minutes
        if trainer.world_size == 1 or self._step % STEPS_BETWEEN_AGREEMENTS == 0:
            is_late = self._agree(trainer, is_late)
            if self.stopped_by is not None:
                self.save(trainer)
                trainer.should_stop = True
                trainer.limit_val_batches = 0  # no last validation: schedulers kill soon after they warn
                return
        else:
            is_late = False
        every = self.settings.every_steps
        is_counted = every is not None and self._step - self._saved_step >= every
        if is_counted or is_late:
            self.save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_fresh = self.path.exists() and time.monotonic() - self._saved_at < FRESH
        if trainer.state.fn == "fit" and trainer.global_step != self._saved_step and not is_fresh:
            self.save(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.stopped_by is not None:
            self.on_validation_epoch_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends a validation that was to end. Ranks may have different numbers of batches and agree on it once: after
        the batch in which a signal came, or here, before they bring their results together."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._agree(trainer)
            if self.stopped_by is not None:
                raise StoppedInValidationError

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        self._restore_signals()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore_signals()

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the checkpoint now."""
        trainer.save_checkpoint(self.path)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None and number != signal.SIGINT and self._launcher is not None:
            self._launcher.kill(number)  # the ranks that this process started; Ctrl-C reaches them by itself
        self.stopped_by = number
        if number == signal.SIGINT:
            self._say("stopping after this step; Ctrl-C again stops at once")
            signal.signal(number, self._previous.pop(number))

    def _agree(self, trainer: pl.Trainer, is_late: bool = False) -> bool:
        """Lets all ranks know of a signal to one of them; whether `is_late` holds on any."""
        stopped_by, late = largest([self.stopped_by or 0, is_late], trainer.strategy.root_device)
        self.stopped_by = stopped_by or None
        return bool(late)

    def _restore_signals(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
