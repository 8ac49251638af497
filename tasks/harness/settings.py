"""What a training or an evaluation can be told: frozen dataclasses whose values are checked where they are made.

Importing this costs nothing. `replace(settings, seed=1)` makes other settings; nothing changes them in place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tasks.data.loading.settings import LoaderSettings
from tasks.typed_settings import TypedSettings

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from tasks.preprocessing import Preprocessing


STRATEGIES = (
    "auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true", "ddp_fork", "ddp_notebook",
    "ddp_spawn",
)  # fmt: skip
"""Lightning's that leave every device the whole network."""
NOT_SHARDED = (
    "; a network that is cut into pieces over devices (fsdp, deepspeed) cannot be trained here, for clipping, weight "
    "decay, averages and checkpoints need whole parameters: take ddp, as these networks fit one GPU"
)


def _default_preprocessing() -> Preprocessing:
    from tasks.preprocessing import Preprocessing

    return Preprocessing()


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


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(TypedSettings):
    """An optimiser of `torch.optim`."""

    prefix = "optimizer."
    name: str | Callable[..., Optimizer] = "torch.optim.AdamW"
    """A class of `torch.optim` by its name, or any that takes groups of parameters and `lr`."""
    lr: float = 0.001
    """Learning rate, at the top of the schedule."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its further arguments, such as weight_decay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"optimizer.lr={self.lr} must be a number of at least 0")

    def factory(self, lr: float | None = None) -> Callable[..., Optimizer]:
        """Takes groups of parameters and gives the optimiser, with the rate `lr` in place of its own."""
        from tasks.harness.optim import optimizer_factory

        return optimizer_factory(self.name, lr=self.lr if lr is None else lr, **self.options)


OPTIMIZERS = {
    "adamw": OptimizerSettings(options={"weight_decay": 0.05}),
    "sgd": OptimizerSettings(
        name="torch.optim.SGD", lr=0.02, options={"momentum": 0.9, "weight_decay": 0.0001}
    ),
}
"""Those with a name on the command line."""
REFERENCE_BATCH_SIZES = {"sgd": 16}
"""Images a step that the rate of an optimiser is for, where it is a recipe's."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(TypedSettings):
    """How the learning rate goes over the steps."""

    prefix = "schedule."
    name: str | Callable[..., LRScheduler] = "warmup_cosine"
    """One of `SCHEDULES`, or a function of an optimiser and the number of steps."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its further arguments, such as warmup."""

    def factory(self) -> Callable[[Optimizer, int], LRScheduler]:
        """Takes an optimiser and the number of steps and gives the schedule."""
        from tasks.harness.optim import schedule_factory

        return schedule_factory(self.name, **self.options)


SCHEDULES = ("constant", "warmup_cosine", "warmup_steps")
"""Those with a name, functions in `tasks.harness.optim`."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings(TypedSettings):
    """Which checkpoints a run keeps: the best and the last, never more than `keep_best` + 1."""

    prefix = "checkpointing."
    keep_best: int = 1
    """Of the validations; the files are `best.ckpt`, or `best-<step>.ckpt` where there are several."""
    every_minutes: float = 10.0
    """`last.ckpt` is saved at least so often, …"""
    every_steps: int | None = None
    """… and after so many steps of the optimiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        too_few = self.every_steps is not None and self.every_steps < 1
        if self.keep_best < 1 or self.every_minutes <= 0 or too_few:
            raise ValueError(
                f"checkpointing.keep_best={self.keep_best}, every_minutes={self.every_minutes} and every_steps="
                f"{self.every_steps} must be at least 1, above 0, and null or at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class MetricSettings(TypedSettings):
    """How predictions are scored."""

    prefix = "metric."
    backend: str | None = None
    """auto, hotcoco or pycocotools, which give the same numbers of boxes and masks."""
    max_detections: int | None = None
    """Detections of an image and class that AP counts; null for COCO's 100, or more where images hold more objects."""

    def options(self) -> dict[str, Any]:
        """What was set, as a task's metric takes it."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TypedSettings):
    """Everything about a training but the task, the data and the network."""

    optimizer: OptimizerSettings = OPTIMIZERS["adamw"]
    """What changes the weights."""
    schedule: ScheduleSettings = ScheduleSettings()
    """How its rate goes over the steps."""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    """How long, and on what."""
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    """How batches are made."""
    preprocessing: Preprocessing = field(default_factory=_default_preprocessing)
    """How pixels reach the network: short_side, max_size, pad_multiple, mean, std."""
    augmentation: Sequence[Any] | None = None
    """Transforms of training images, in this order; None mirrors them where the data may be mirrored."""
    checkpointing: CheckpointSettings = CheckpointSettings()
    """How often last.ckpt is saved, and how many best ones stay."""
    metric: MetricSettings = MetricSettings()
    """How validations are scored."""
    loggers: Sequence[str | Callable[[Path], Logger]] = ("csv",)
    """Keys of `tasks.harness.loggers.LOGGERS`, or functions of a run's folder."""
    task: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the task itself, such as mixup or backbone_lr_scale."""
    norm: str = "auto"
    """Of the backbone: frozen (pretrained) or group norm where few images meet, else batch norm."""
    compile: str | bool | None = None
    """What torch.compile compiles: backbone (true means it too), with its pyramid; dense, all that is computed on
    maps; or step, the losses as well."""
    compile_mode: str | None = None
    """Of torch.compile: reduce-overhead, max-autotune, …; None for its usual one."""
    tf32: bool = True
    """Products of float32 numbers on a GPU round their factors to ten bits, several times faster."""
    resume: str | None = None
    """A run's folder, or one of its checkpoints: goes on exactly where it was saved."""
    reference_batch_size: int | None = None
    """Images a step that optimizer.lr is for; other numbers scale it. None: lr as written."""
    ema: bool | float = False
    """True, or a decay such as 0.9998: score and keep a moving average of the weights."""
    on_nonfinite: str = "stop"
    """Or skip: what a loss that is no number does, and a gradient where gradients are clipped by their norm."""
    early_stopping: int | None = None
    """Validations without a better one, after which training ends."""
    size: str = "auto"
    """Of data of one's own: small, medium or large, which is a network and the side of images; auto takes small on a
    CPU and large on a GPU."""
    pretrained: bool | str | None = None
    """Published weights of the whole model by tag (COCO_V1, COCO_V2), heads by class name; false for random weights.
    auto, which data of one's own is trained with, takes those, or the backbone's where there are none."""
    init_from: str | None = None
    """A model file or checkpoint of any task: whatever fits moves, heads by class name."""
    precision: str = "auto"
    """bf16 where the device computes in it; or 32-true, bf16-mixed, 16-mixed."""
    seed: int = 0
    """Of everything that is drawn at random."""

    def __post_init__(self) -> None:
        from backbones.checks import suggest
        from backbones.layers import NORMS
        from tasks.harness.auto import scaled_rate
        from tasks.harness.compilation import check_compile
        from tasks.harness.ema import MovingAverage
        from tasks.harness.guards import LossGuard

        super().__post_init__()
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed={self.seed} must be at least 0 and below 2^32")
        if self.norm != "auto" and self.norm not in NORMS:
            raise ValueError(f"norm={self.norm}; {suggest(str(self.norm), ['auto', *NORMS])}")
        check_compile(self.compile, self.compile_mode)
        if not isinstance(self.ema, bool):
            MovingAverage(self.ema)  # checks the decay
        if self.early_stopping is not None and self.early_stopping < 1:
            raise ValueError(
                f"early_stopping={self.early_stopping} must be a number of validations, at least 1, or null for never"
            )
        LossGuard(None, self.on_nonfinite)
        if self.reference_batch_size is not None:
            scaled_rate(1.0, self.reference_batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(TypedSettings):
    """How a model is scored."""

    scales: Sequence[float] = (1.0,)
    """Of detectors: each image in all these sizes, relative to the model's own, …"""
    flip: bool = False
    """… and mirrored too."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other settings than the file's: nms_threshold, max_detections, …"""
    loader: LoaderSettings = field(default_factory=LoaderSettings)
    """How batches are made."""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    """On what."""
    metric: MetricSettings = MetricSettings()
    """How predictions are scored."""
    precision: str = "auto"
    """bf16 where the device computes in it; or 32-true, bf16-mixed, 16-mixed."""
    tf32: bool = True
    """Products of float32 numbers on a GPU round their factors to ten bits, several times faster."""


@dataclass(frozen=True, kw_only=True)
class PredictSettings(TypedSettings):
    """How a trained model is applied to pictures, and what is written of what it finds."""

    format: str | None = None
    """json, jsonl, csv, coco or yolo; null is json, and for a video jsonl, a line for each frame."""
    draw: bool = True
    """Whether pictures, or the video, are written with what is found drawn on them."""
    masks: bool = False
    """Whether masks and class maps are written as PNG files, too."""
    every: int = 1
    """Every so many frames of a video, or pictures of a source, one is looked at."""
    download: bool = False
    """Whether pictures are fetched that a list of sources names by addresses."""

    score_threshold: float | None = None
    """Weaker objects are left out; null for what `vertebra tune` stored in the file, 0.5 where it did not."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other settings than the file's: nms_threshold, max_detections, …"""
    batch_size: int = 8
    """Pictures that go through the network at once."""
    tile: int | None = None
    """For small objects in large pictures: tiles of so many pixels a side, such as 640, …"""
    overlap: float = 0.2
    """… neighbours sharing this much of it."""
    scales: Sequence[float] = (1.0,)
    """Each picture in all these sizes, relative to the model's own, …"""
    flip: bool = False
    """… and mirrored too."""
    max_pixels: int | None = None
    """Width times height of the largest picture that is read; null for 89 million."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …"""
    precision: str = "auto"
    """bf16 where the device computes in it; or 32-true, bf16-mixed, 16-mixed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.every) is not int or self.every < 1:
            raise ValueError(f"every={self.every} must be a whole number of frames, at least 1")
        for name in ("draw", "masks", "download"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name}={value} must be true or false")


S = TypeVar("S")


def with_values(settings: S, values: Mapping[str, Any]) -> S:
    """`settings`, a dataclass, with other values, nested as its fields are; checked as always.

    What an optimiser or a schedule has no field for is one of its options. ValueError with the nearest for any other
    unknown name.
    """
    assert is_dataclass(settings) and not isinstance(settings, type)
    names = [field.name for field in fields(settings)]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            if not isinstance(settings, OptimizerSettings | ScheduleSettings):
                from backbones.checks import suggest

                raise ValueError(f"unknown setting {key!r}; {suggest(key, names)}")
            changes.setdefault("options", dict(settings.options))[key] = value
            continue
        old = getattr(settings, key)
        nested = is_dataclass(old) and isinstance(value, Mapping)
        changes[key] = with_values(old, cast(Mapping[str, Any], value)) if nested else value
    return replace(settings, **changes)
