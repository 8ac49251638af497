"""`Reporter`: where a run says what it does. The command line has one that prints."""

import contextlib
import logging
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self, TextIO

from lightning.pytorch.callbacks import Callback, ProgressBar

from tasks.harness.callbacks import ProgressLines
from tasks.harness.session import is_rank_zero
from tasks.harness.trainer_settings import TrainerSettings

_LOG = logging.getLogger("vertebra")


class Reporter:
    """Says everything to the logger "vertebra" at level INFO, and into `log.txt` of the run's folder."""

    _file: TextIO | None = None

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self  # a copy of what says something, such as a module that is averaged, says it to the same place

    def say(self, text: str) -> None:
        """One or several lines for a person; those of other ranks than the first are dropped."""
        if not is_rank_zero():
            return
        _LOG.info(text)
        if self._file is not None:
            print(text, file=self._file, flush=True)

    def result(self, text: str) -> None:
        """What was asked for, such as the numbers of an evaluation and where they lie."""
        self.say(text)

    def callbacks(self, trainer: TrainerSettings) -> list[Callback]:
        """What shows the progress of a run, where its settings want it shown."""
        return [self.progress()] if trainer.enable_progress_bar else []

    def progress(self) -> ProgressBar:
        """How the progress of a training is shown."""
        return ProgressLines(self.say)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Generator[None]:
        """What is said inside goes into the file `path` as well, behind what is there."""
        if not is_rank_zero():
            yield
            return
        with open(path, "a", encoding="utf-8") as file:
            self._file = file
            try:
                yield
            except Exception:
                file.write(traceback.format_exc())
                raise
            finally:
                self._file = None
