"""What training, evaluation and prediction share: the folder of a run, ranks, precision, memory, what is left."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.profilers import PassThroughProfiler
from omegaconf import DictConfig, OmegaConf

from tasks.devices import resolve_device, resolve_precision
from tasks.folders import claim_folder, new_folder
from tasks.harness.environment import write_json
from tasks.harness.task import Task
from tasks.zoo.model_file import save_model

RUN_DIR = "VERTEBRA_RUN_DIR"
"""Environment variable: the run folder, for ranks that the first one starts."""


def run_folder(config: DictConfig) -> Path:
    """Makes the folder of this run: `run_dir`, or one under runs/ named by the command and the time.

    Of several ranks the first makes it; those that Lightning starts are told which by an environment variable.
    """
    if RUN_DIR in os.environ and not is_first():
        return Path(os.environ[RUN_DIR])
    if config.run_dir is None and _starts_with_others():
        raise ValueError(
            "several processes were started for this run (torchrun, srun), which need one folder: give run_dir=DIR"
        )
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if is_first():
            claim_folder(folder, "run_dir")
    else:
        model = Path(config.get("checkpoint") or config.backbone.name).stem
        folder = new_folder(f"evaluate-{model}" if "checkpoint" in config else config.task.name)
    os.environ[RUN_DIR] = str(folder)  # for the ranks that this process may start
    return folder


def _starts_with_others() -> bool:
    """Whether something else than Lightning started several ranks."""
    return any(int(os.environ.get(name, 1)) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))


def is_first() -> bool:
    """Whether this process is the only rank or the first."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


@contextlib.contextmanager
def first_rank_speaks() -> Iterator[None]:
    """What other ranks print is dropped."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class Unprofiled(PassThroughProfiler):
    """Lightning's profiler that measures nothing, without the generator that its own makes 60 times a step."""

    _nothing = contextlib.nullcontext()

    def profile(self, action_name: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing


def accelerator(config: DictConfig) -> str:
    """The device that `trainer.accelerator` means, as torch calls it; "auto" stays."""
    name = str(config.trainer.get("accelerator", "auto"))
    return "cuda" if name == "gpu" else name


def precision(config: DictConfig) -> str:
    """Lightning's name of the precision on the device of this run."""
    return resolve_precision(config.precision, resolve_device(accelerator(config)))


def write_outcome(folder: Path, task: Task, *, model_file: bool = True) -> None:
    """Writes the numbers, the results and the model of `task` as its last validation left them."""
    write_json(folder / "metrics.json", task.numbers)
    if task.metric is not None:
        task.write_results(folder)
    if model_file:
        task.header.metrics = dict(task.numbers)
        save_model(folder / "model.safetensors", task.model, task.header)


def plain(config: DictConfig | None) -> Any:
    """`config` as plain containers."""
    return OmegaConf.to_container(config, resolve=True) if config is not None else None


def quiet() -> None:
    """Silences what Lightning says that is no news to anyone."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # decoding is cheap beside a detector; loader.num_workers says otherwise
        ".*could not find the monitored key in the returned metrics.*",  # an epoch before the first validation
        ".*GPU available but not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
        ".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # and the module's is the one meant
        ".*recommended to use .*sync_dist=True.* when logging on epoch level.*",  # metrics gather themselves
        ".*LeafSpec.*is deprecated.*",  # Lightning 2.6.6 on torch 2.14
    ):
        warnings.filterwarnings("ignore", message)
