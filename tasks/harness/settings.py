"""What a training or an evaluation can be told: frozen dataclasses whose values are checked where they are made.

Importing this costs nothing. `replace(settings, seed=1)` makes other settings; nothing changes them in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tasks.data.loading.settings import LoaderSettings
from tasks.harness.trainer_settings import ENDLESS, TrainerSettings
from tasks.typed_settings import TypedSettings

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch.loggers import Logger
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from tasks.preprocessing import Preprocessing


def _default_preprocessing() -> Preprocessing:
    from tasks.preprocessing import Preprocessing

    return Preprocessing()


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

    def factory(self) -> Callable[..., Optimizer]:
        """Takes groups of parameters and gives the optimiser."""
        from tasks.harness.optim import optimizer_factory

        return optimizer_factory(self.name, lr=self.lr, **self.options)


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
        from tasks.harness.compilation import check_compile
        from tasks.harness.ema import MovingAverage
        from tasks.harness.guards import LossGuard

        super().__post_init__()
        if self.trainer.is_endless and self.schedule.name != "constant":
            raise ValueError(ENDLESS)
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
        if self.reference_batch_size is not None and self.reference_batch_size < 1:
            raise ValueError(
                f"reference_batch_size={self.reference_batch_size} must be at least 1, or null for the rate as written"
            )


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
        if self.every < 1:
            raise ValueError(f"every={self.every} must be a whole number of frames, at least 1")


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
