"""What a person sees of a run while it goes: progress, and predictions drawn beside the truth as a picture."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback, ProgressBar

from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.dataset import split_of
from tasks.harness.loggers import log_pictures
from tasks.harness.task import Task
from tasks.visualization.boxes import picture_sheet, write_picture
from tasks.visualization.result import MIN_SCORE, DrawablePrediction
from tasks.visualization.sheet import spread
from tasks.visualization.truth import beside, draw_truth, marked

EVERY = 10.0
"""Seconds between two lines of progress."""
NUM_PICTURES = 8


class ProgressLines(ProgressBar):
    """Progress as plain lines, for output that goes to a file: step, loss, pace, time left."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say = say
        self._enabled = True
        self._waiting = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._last = time.perf_counter()
        self._first_step = trainer.global_step
        self._waiting = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        if not self._enabled or now - self._last < EVERY:
            return
        self._last = now
        step, total = trainer.global_step, trainer.estimated_stepping_batches
        pace = (now - self._start - self._waiting) / max(1, step - self._first_step)
        loss = getattr(pl_module, "train_losses", {}).get("loss")
        has_end = math.isfinite(total)
        self.say(
            f"step {step}"
            + (f" of {int(total)}" if has_end else "")
            + (f"  loss {loss:.3f}" if loss is not None else "")
            + f"  {pace:.2f} s a step"
            + (f"  {pace * (total - step):.0f} s left" if has_end else "")
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._waiting += time.perf_counter() - self._validation_start


class PredictionPictures(Callback):
    """Writes some images, spread over the split of a validation or test, with the truth beside what the model finds
    in them, as one picture, and gives the loggers the same."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "predictions.jpg"
        self._pictures: dict[int, np.ndarray] = {}
        """By the image's place in the split."""
        self._found: list[tuple[np.ndarray, DrawablePrediction]] = []  # with the images as they are

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        assert isinstance(pl_module, Task)
        split = split_of(trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders)
        ids = split.annotations.image_ids
        wanted = {int(ids[place]): place for place in spread(len(ids), NUM_PICTURES)}
        for predictions, part in outputs:
            rows = [row for row, image_id in enumerate(part.image_ids.tolist()) if image_id in wanted]
            if not rows:
                continue
            results = pl_module.results(predictions, part)
            for row in rows:
                place = wanted[int(part.image_ids[row])]
                image = split.image(place)
                picture = results[row].above(MIN_SCORE).draw(image)
                if isinstance(split.annotations, ImageLabels):
                    best = int(cast(Any, results[row]).labels[0])
                    picture = marked(picture, best == int(split.annotations.labels[place]))
                truth = draw_truth(image, split.annotations, place)
                self._pictures[place] = picture if truth is None else beside(truth, picture)
                if trainer.loggers:
                    self._found.append((image, results[row].to_drawable()))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._pictures:
            sheet = picture_sheet([picture for _, picture in sorted(self._pictures.items())])
            write_picture(self.path, sheet)
            names = pl_module.header.class_names  # type: ignore[union-attr]
            for logger in trainer.loggers:
                log_pictures(logger, sheet, self._found, names, step=trainer.global_step)  # type: ignore[arg-type]
        self._pictures, self._found = {}, []

    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
