"""What training and evaluation share: the folder of a run, ranks, precision, what is left."""

import contextlib
import signal
from collections.abc import Generator
from pathlib import Path

import lightning.pytorch as pl
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.profilers import PassThroughProfiler

from tasks.devices import resolve_device, resolve_precision
from tasks.files import write_json
from tasks.folders import claim_folder, new_folder
from tasks.harness.settings import TrainerSettings
from tasks.harness.task import Task
from tasks.zoo.model_file import save_model


def run_folder(folder: Path | None, name: str) -> Path:
    """Makes the folder of a run: `folder`, or one under runs/ called by `name` and the time.

    Of several ranks the first makes it. FileExistsError where it holds anything.
    """
    if folder is None:
        if not is_rank_zero():
            raise ValueError("several processes train together, which need one folder: give folder=DIR")
        return new_folder(name)
    if is_rank_zero():
        claim_folder(folder, "run_dir")
    return folder


def is_rank_zero() -> bool:
    """Whether this process is the only rank or the first."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without the generator that its own makes 60 times a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


@contextlib.contextmanager
def interruptible(trainer: pl.Trainer) -> Generator[None, None, None]:
    """Ctrl-C in what the trainer does inside is a KeyboardInterrupt, as anywhere else: Lightning ends the program as if
    by an error, and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        with contextlib.suppress(ValueError):  # outside the main thread
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def lightning_precision(precision: str, trainer: TrainerSettings) -> str:
    """Lightning's name of `precision` on the device of a run."""
    return resolve_precision(precision, resolve_device(trainer.device))


def write_outcome(folder: Path, task: Task, *, split: str = "val", model_file: bool = True) -> None:
    """Writes the numbers, the results and the model of `task` as its last validation, of `split`, left them."""
    write_json(folder / "metrics.json", {**task.numbers, **flat_intervals(task)})
    if task.metric is not None:
        task.write_results(folder)
        task.write_outcomes(folder, split)
    if model_file:
        task.header.metrics = dict(task.numbers)
        save_model(folder / "model.safetensors", task.model, task.header)


def flat_intervals(task: Task) -> dict[str, float]:
    """The ends of the intervals under `interval_low/<name>` and `interval_high/<name>`, and the number of `images`."""
    if not task.intervals:
        return {}
    ends = {
        f"interval_{end}/{name}": both[i]
        for name, both in task.intervals.items()
        for i, end in enumerate(("low", "high"))
    }
    return {"images": task.num_images, **ends}


def files_in(folder: Path) -> str:
    """The folder and what is in it, in words."""
    return f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}"
