"""What makes a run that resumes, wherever it was killed, the same as one that was not: `ExactResume` keeps what
Lightning's checkpoint lacks, `FitLoop` counts what it has."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop  # pyright: ignore[reportPrivateUsage]

from tasks.data.loading.loader import ResumableLoader
from tasks.distributed import all_gather_objects

EXACT_RESUME = "exact_resume"
"""Key of a checkpoint: the random states of all ranks, the place in the epoch, and whether a validation is due."""


class ExactResume(Callback):
    """Keeps in the checkpoint the random states of every rank, the place in the epoch and whether a validation was
    due, and takes them up."""

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._place: dict[str, int] | None = None
        self._due: int | None = None
        self._validated_step = -1
        self.is_accepted = False
        """Whether training has begun, with all that the checkpoint holds."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loader = trainer.train_dataloader
        place = loader.state_dict() if isinstance(loader, ResumableLoader) else None
        due = trainer.current_epoch if self._is_validation_due(trainer) else None
        checkpoint[EXACT_RESUME] = {
            "place": place,
            # Those to be taken up, while a validation is made up for and no batch has been asked for.
            "random": all_gather_objects(random_state() if self._random is None else self._random),
            "validation_due": due,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint[EXACT_RESUME]
        self._place = state["place"]
        self._due = state.get("validation_due")
        if trainer.global_rank < len(state["random"]):  # with more ranks than before nothing is exact
            self._random = state["random"][trainer.global_rank]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated_step = trainer.global_step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.is_accepted = True
        # Lightning would restore the loader itself, but has made it already when a schedule asks for the number
        # of steps, and then forgets to.
        if self._place is not None and isinstance(trainer.train_dataloader, ResumableLoader):
            trainer.train_dataloader.load_state_dict(self._place)
        if self._due is not None:
            self._validate(trainer)
            self._due = None

    def _is_validation_due(self, trainer: pl.Trainer) -> bool:
        """Whether the next thing after the step just taken is a validation."""
        loop = trainer.fit_loop
        return (
            trainer.state.fn == "fit"
            and self._validated_step != trainer.global_step
            and loop._data_fetcher is not None  # pyright: ignore[reportPrivateUsage]
            and trainer.limit_val_batches != 0
            and not trainer.should_stop
            and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)  # pyright: ignore[reportPrivateUsage]
        )

    @staticmethod
    def _validate(trainer: pl.Trainer) -> None:
        """The validation that the run was killed before or in: Lightning takes it for done."""
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress
        for count in (batches.total, batches.current):  # the checkpoint is of the end of a batch
            count.completed = count.processed
        trainer.validating = True
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # or it would go on behind the batches of the validation before
        loop.run()
        loop._has_run = False  # what is behind it in the epoch is still to be done
        trainer.training = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not earlier: setting up the fit may draw random numbers.
        if self._random is not None:
            set_random_state(self._random)
            self._random = None


def random_state() -> dict[str, Any]:
    """The states of every random generator, as tensors and plain values that load as data alone."""
    python = random.getstate()
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [python[0], list(python[1]), python[2]],
        "numpy": [torch.as_tensor(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Takes up what `random_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))


class FitLoop(_FitLoop):
    """Lightning's, for runs that resume exactly, wherever they were killed.

    Lightning counts a step, an epoch and a validation as done before callbacks validate what is due, so that a second
    kill would leave counts of no place in a run; and it leaves at once where a run has had all its steps, though not
    its last validation.
    """

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "FitLoop":
        """One in the place of Lightning's own."""
        own = trainer.fit_loop
        loop = cls(trainer, min_epochs=own.min_epochs, max_epochs=own.max_epochs)
        loop.epoch_loop = own.epoch_loop
        return loop

    def run(self) -> None:
        self.setup_data()
        if self._loaded_from_state_dict and has_stopped_early(self.trainer):
            self.trainer.should_stop = True
        if self._loaded_from_state_dict and self.skip:
            self.on_run_start()
            self.on_run_end()
        else:
            super().run()
        if self._loaded_from_state_dict:  # still: no batch was left to train
            epochs: Any = self.epoch_progress.current
            epochs.processed = epochs.completed = epochs.ready
            self.epoch_loop._batches_that_stepped = self.trainer.global_step  # pyright: ignore[reportPrivateUsage]

    def reset(self) -> None:
        """Counts on, but not before `on_run_start` in a run that resumes."""
        if not self._loaded_from_state_dict:
            super().reset()

    def on_run_start(self) -> None:
        super().on_run_start()  # `ExactResume` validates where that is due
        if self._loaded_from_state_dict and not self.skip:
            super().reset()
            epochs: Any = self.epoch_progress.total
            if self.restarted_mid_epoch and epochs.processed == epochs.started:
                # The checkpoint was of the last step of an epoch, which has been counted as done by now: what comes is
                # a new one, which Lightning would not count as begun.
                self.reset_restart_stage()


def has_stopped_early(trainer: pl.Trainer) -> bool:
    """Whether early stopping has ended the run that `trainer` is at, now or before it was resumed."""
    return any(
        isinstance(callback, EarlyStopping) and callback.stopping_reason.value
        for callback in trainer.callbacks  # type: ignore[attr-defined]
    )
