"""Lightning's loop of a fit, for a run that resumes where nothing is left to train."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loops.fit_loop import _FitLoop  # pyright: ignore[reportPrivateUsage]


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
