"""What training and evaluation share: the folder of a run, ranks, precision, what is left."""

import contextlib
import time
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.profilers import PassThroughProfiler

from tasks.devices import resolve_device, resolve_precision
from tasks.files import write_json
from tasks.harness.settings import TrainerSettings
from tasks.harness.task import Task
from tasks.zoo.model_file import save_model


def run_folder(folder: Path | None, name: str) -> Path:
    """Makes the folder of a run: `folder`, or one under runs/ called by `name` and the time.

    Of several ranks the first makes it. FileExistsError where it holds anything.
    """
    if folder is None:
        if not is_first():
            raise ValueError("several processes train together, which need one folder: give folder=DIR")
        folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    elif is_first() and folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"run_dir={folder} is not empty; give another folder, or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_first() -> bool:
    """Whether this process is the only rank or the first."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without the generator that its own makes 60 times a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


def lightning_precision(precision: str, trainer: TrainerSettings) -> str:
    """Lightning's name of `precision` on the device of a run."""
    return resolve_precision(precision, resolve_device(trainer.device))


def write_outcome(folder: Path, task: Task, *, model_file: bool = True) -> None:
    """Writes the numbers, the results and the model of `task` as its last validation left them."""
    write_json(folder / "metrics.json", task.numbers)
    if task.metric is not None:
        task.write_results(folder)
    if model_file:
        task.header.metrics = dict(task.numbers)
        save_model(folder / "model.safetensors", task.model, task.header)


def files_in(folder: Path) -> str:
    """The folder and what is in it, in words."""
    return f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}"
