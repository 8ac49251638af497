"""What a run leaves open of Lightning's `Trainer`. Importing this costs nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.typed_settings import TypedSettings

STRATEGIES = (
    "auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "ddp_fork", "ddp_notebook",
    "ddp_spawn",
)  # fmt: skip
"""Lightning's that leave every device the whole network."""
ENDLESS = (
    "the schedule of the learning rate goes by the number of steps, which neither trainer.max_steps nor "
    "trainer.max_epochs says; give one of them, or schedule=constant"
)
NOT_SHARDED = (
    "; a network that is cut into pieces over devices (fsdp, deepspeed) cannot be trained here, for clipping, weight "
    "decay, averages and checkpoints need whole parameters: take ddp, as these networks fit one GPU"
)


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(TypedSettings):
    """Lightning's `Trainer`, as far as a run leaves it open."""

    prefix = "trainer."
    accelerator: str = "auto"
    """cpu, gpu, …; auto takes a GPU where there is one."""
    devices: int | str | Sequence[int] = "auto"
    """How many, or which; auto takes all GPUs, and one CPU."""
    strategy: str = "auto"
    """ddp for several devices; each holds the whole network."""
    num_nodes: int = 1
    """Machines."""
    sync_batchnorm: bool = False
    """Batch norms of several GPUs share their statistics."""
    max_epochs: int | None = 12
    """-1 for no limit."""
    min_epochs: int | None = None
    """At least so many, whatever stops training early."""
    max_steps: int = -1
    """Of the optimiser; whichever limit comes first ends training. -1 for no limit."""
    min_steps: int | None = None
    """At least so many, whatever stops training early."""
    max_time: str | Mapping[str, int] | None = None
    """Such as 00:01:30:00, an hour and a half."""
    limit_train_batches: int | float | None = None
    """Batches of an epoch, or their share."""
    limit_val_batches: int | float | None = None
    """Batches of a validation, or their share."""
    limit_test_batches: int | float | None = None
    """Batches of an evaluation, or their share."""
    overfit_batches: int | float = 0.0
    """Train and validate on so many batches alone, or their share."""
    val_check_interval: int | float | str | None = None
    """Batches from one validation to the next, or a share of an epoch; max_steps for one, after the last step."""
    check_val_every_n_epoch: int | None = 1
    """Epochs from one validation to the next; None counts `val_check_interval` over epochs."""
    log_every_n_steps: int = 10
    """Steps from one line of numbers to the next."""
    accumulate_grad_batches: int = 1
    """Batches whose gradients make one step."""
    gradient_clip_val: float | None = 10.0
    """Gradients are clipped to this norm; None leaves them."""
    gradient_clip_algorithm: str | None = None
    """norm, or value."""
    deterministic: bool | str | None = None
    """Repeats to the bit, and is slower."""
    benchmark: bool | None = None
    """cuDNN tries its algorithms for each new shape."""
    inference_mode: bool = True
    """Validation under `torch.inference_mode`, else `torch.no_grad`."""
    detect_anomaly: bool = False
    """Says which operation gave a gradient that is no number; slow."""
    profiler: str | None = None
    """simple or advanced."""
    fast_dev_run: bool | int = False
    """So many batches of everything, without checkpoints."""
    enable_progress_bar: bool = True
    """Whether progress is shown."""
    reload_dataloaders_every_n_epochs: int = 0
    """Makes the loaders anew so often."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_ranges()
        if self.strategy not in STRATEGIES:
            from backbones.checks import suggest

            raise ValueError(
                f"trainer.strategy={self.strategy}; {suggest(str(self.strategy), STRATEGIES)}{NOT_SHARDED}"
            )
        if self.accelerator in ("gpu", "cuda"):
            import torch

            if not torch.cuda.is_available():
                raise ValueError(
                    f"trainer.accelerator={self.accelerator}: torch sees no GPU on this machine; trainer=cpu trains "
                    "without one"
                )

    def _check_ranges(self) -> None:
        """Raises ValueError for a number that means nothing."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not value >= least:
                raise ValueError(f"trainer.{name}={value} must be at least {least}")
        interval = self.val_check_interval
        is_share = isinstance(interval, float) and 0 < interval <= 1
        is_count = isinstance(interval, int) and (interval >= 1 or interval == self.max_steps)
        if isinstance(interval, int | float) and not is_share and not is_count:
            raise ValueError(
                f"trainer.val_check_interval={interval} must be a number of batches, at least 1, or a share of an "
                "epoch, above 0 and at most 1.0"
            )
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            raise ValueError(
                f"trainer.gradient_clip_algorithm={self.gradient_clip_algorithm} must be norm or value"
            )
        if self.deterministic not in (None, True, False, "warn"):
            raise ValueError(f"trainer.deterministic={self.deterministic} must be true, false or warn")
        devices = self.devices if isinstance(self.devices, list | tuple) else [self.devices]
        named = [str(device).strip() for one in devices for device in str(one).split(",")]
        is_count = not isinstance(self.devices, list | tuple) and len(named) == 1
        known = [device.isdecimal() or (is_count and device in ("auto", "-1")) for device in named]
        if not named or not all(known) or (is_count and named == ["0"]):
            raise ValueError(
                f"trainer.devices={self.devices} must be a number of devices, at least 1, a list of which, auto, or -1 "
                "for all"
            )
        if self.accelerator == "cpu":
            self.check_count()
        if isinstance(self.max_time, str) and not re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", self.max_time):
            raise ValueError(
                f"trainer.max_time={self.max_time} must be days:hours:minutes:seconds, as 00:01:30:00"
            )

    def check_count(self) -> None:
        """Raises ValueError where `devices` are named by number."""
        if not isinstance(self.devices, int | str):
            raise ValueError(
                f"trainer.devices={list(self.devices)} names devices by number, and CPUs have none; give a count of "
                "processes, such as trainer.devices=2"
            )

    @property
    def device(self) -> str:
        """The device that `accelerator` means, as torch calls it; "auto" stays."""
        return "cuda" if self.accelerator == "gpu" else self.accelerator

    @property
    def is_endless(self) -> bool:
        """Whether no number of steps or epochs ends a run, be it that `max_time` does."""
        has_epochs = self.max_epochs not in (None, -1) or (self.max_epochs is None and self.max_time is None)
        return self.max_steps == -1 and not has_epochs and not self.fast_dev_run

    def keywords(self) -> dict[str, Any]:
        """Arguments of Lightning's `Trainer`."""
        values = dict(vars(self))
        if values["val_check_interval"] == "max_steps":
            values["val_check_interval"] = self.max_steps
        if not isinstance(self.devices, int | str):
            values["devices"] = list(self.devices)
        return values


_LEAST = {
    "num_nodes": 1, "max_epochs": -1, "min_epochs": 0, "max_steps": -1, "min_steps": 0, "limit_train_batches": 0,
    "limit_val_batches": 0, "limit_test_batches": 0, "overfit_batches": 0, "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1, "accumulate_grad_batches": 1, "gradient_clip_val": 0, "fast_dev_run": 0,
    "reload_dataloaders_every_n_epochs": 0,
}  # fmt: skip
"""The least that a setting of the trainer may be."""
