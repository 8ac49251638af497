"""What the command line does to its process: what is printed and where, warnings, memory, the folder of a run."""

import contextlib
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from omegaconf import DictConfig
from rich.file_proxy import FileProxy

from tasks.cli.output import Tee, say_result
from tasks.devices import keep_freed_memory, resolve_device
from tasks.folders import new_folder
from tasks.harness.reporter import Reporter
from tasks.harness.session import is_rank_zero

RUN_DIR = "VERTEBRA_RUN_DIR"
"""Environment variable: the run folder, for ranks that the first one starts."""
QUIET = (
    ".*does not have many workers.*",  # decoding is cheap beside a detector; loader.num_workers says otherwise
    ".*smaller than the logging interval.*",  # counted over epochs, so that short ones are logged too
    ".*could not find the monitored key in the returned metrics.*",  # an epoch before the first validation
    ".*GPU available but not used.*",
    r".*module\(s\) in eval mode at the start of training.*",  # frozen stages and norms
    ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
    ".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # and the module's is the one meant
    ".*recommended to use .*sync_dist=True.* when logging on epoch level.*",  # metrics gather themselves
    ".*Using `DistributedSampler` with the dataloaders.*",  # which repeats no image
    ".*requested to overfit but enabled .*dataloader shuffling.*",  # which is what is wanted of it
    ".*LeafSpec.*is deprecated.*",  # Lightning 2.6.6 on torch 2.14
)
"""What Lightning says that is no news to anyone."""
LOSS_EVERY = 1.0
"""Seconds between two looks at the loss for a bar, for which the host waits for the device."""


class Terminal(Reporter):
    """Prints; other ranks than the first say nothing."""

    def say(self, text: str) -> None:
        if is_rank_zero():
            print(text, flush=True)

    def result(self, text: str) -> None:
        if is_rank_zero():
            say_result(text)

    def progress(self) -> ProgressBar:
        """A bar on a terminal, a line every ten seconds in a log file."""
        return TrainingBar(self._file) if sys.stdout.isatty() else super().progress()

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Everything printed inside, by whomever, goes into `path` as well. What other ranks than the first print is
        dropped."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().writing(path))
            if self._file is None:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            else:
                stack.enter_context(contextlib.redirect_stdout(Tee(sys.stdout, self._file)))  # type: ignore[type-var]
                stack.enter_context(contextlib.redirect_stderr(Tee(sys.stderr, self._file)))  # type: ignore[type-var]
            yield


class TrainingBar(RichProgressBar):
    """Lightning's, with the loss; `copy` gets what others print meanwhile."""

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
        if loss is not None and now - self._looked >= LOSS_EVERY:
            self._loss, self._looked = float(loss), now
        return {} if self._loss is None else {"loss": self._loss}


def prepare(device: str) -> None:
    """Silences what is no news, and keeps memory that one step frees for the next."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    keep_freed_memory(resolve_device(device))


def run_folder(config: DictConfig, name: str) -> Path:
    """The folder of this run: `run_dir`, which is not made yet, or one under runs/ called by `name` and the time.

    Ranks that Lightning starts are told which by an environment variable.
    """
    if RUN_DIR in os.environ and not is_rank_zero():
        return Path(os.environ[RUN_DIR])
    if config.run_dir is None and any(int(os.environ.get(n, 1)) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise ValueError(
            "several processes were started for this run (torchrun, srun), which need one folder: give run_dir=DIR"
        )
    if config.run_dir is not None or not is_rank_zero():
        folder = Path(config.run_dir or "runs")
    else:
        folder = new_folder(name)  # made now, so that no other run of this second has the name
    os.environ[RUN_DIR] = str(folder)
    return folder


@contextlib.contextmanager
def folder_of_run(config: DictConfig, name: str) -> Iterator[Path]:
    """`run_folder`, which goes again where an error comes before anything lies in it."""
    is_made = config.run_dir is None and is_rank_zero()
    folder = run_folder(config, name)
    try:
        yield folder
    except BaseException:
        if is_made:
            with contextlib.suppress(OSError):  # of one that is not empty: a run has begun
                folder.rmdir()
                folder.parent.rmdir()
        raise
