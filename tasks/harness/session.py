"""What training and evaluation share: the folder of a run, ranks, precision, what a GPU's libraries are told."""

import contextlib
import signal
from collections.abc import Generator
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.profilers import PassThroughProfiler

from tasks.devices import resolve_device, resolve_precision
from tasks.folders import claim_folder, new_folder
from tasks.harness.settings import TrainerSettings


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


@contextlib.contextmanager
def backends(device: torch.device, *, tf32: bool, benchmark: bool) -> Generator[str]:
    """Inside, products of float32 are computed in TF32 or not, and cuDNN tries its algorithms for each shape or not.

    Gives what to say of it; nothing for a CPU, where nothing is changed.
    """
    if device.type != "cuda":
        yield ""
        return
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    # torch's newer names for it clash with Lightning's use.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
    try:
        on = {True: "on", False: "off"}
        yield f"TF32 {on[tf32]} (tf32), cuDNN's search for algorithms {on[benchmark]} (trainer.benchmark)"
    finally:
        torch.set_float32_matmul_precision(before[0])
        _, cudnn.allow_tf32, cudnn.benchmark = before


def files_in(folder: Path) -> str:
    """The folder and what is in it, in words."""
    return f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}"
