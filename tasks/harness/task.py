"""`Task`: the steps of training and validation, the same for every task; a subclass holds what differs."""

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tasks.contracts import Batch, Metric, Model
from tasks.data.dataset import check_ranks, images_of, split_of
from tasks.device_copies import to_list
from tasks.distributed import all_gather_objects
from tasks.harness.environment import fingerprint
from tasks.harness.guards import LossGuard, check_boxes
from tasks.harness.optim import build_optimizer, constant
from tasks.harness.settings import OPTIMIZERS, ScheduleSettings
from tasks.harness.throughput import ThroughputMonitor
from tasks.harness.trainer_settings import ENDLESS, NOT_SHARDED
from tasks.metrics.average_precision import evaluator
from tasks.metrics.bootstrap import Interval, intervals
from tasks.metrics.outcomes import write_outcomes
from tasks.visualization.result import Result
from tasks.zoo.model_file import METADATA_KEY, Header

Scored = tuple[Any, Batch]
"""Predictions in original pixels, and the images that they are of."""


class Task(pl.LightningModule):
    """Drives a `contracts.Model`. A batch passes `training_step` on its way to `model.losses`, nothing between.

    Works under `tasks.train` and under any `lightning.Trainer`: `fit`, `validate`, `test` and `predict`, with a
    `DataModule` or its loaders. `fit` logs the losses under `train/…`; docs/logging.md lists the names of
    everything logged.
    """

    monitor: ClassVar[str]
    """The metric that says which of two models of this task is better; higher is better."""

    data_options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `DataModule` that give its targets what this task learns from."""

    metric_arguments: ClassVar[tuple[str, ...]] = ()
    """What the metric of this task can be told under `metric` in a configuration."""

    def __init__(
        self,
        model: Model,
        *,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        backbone_lr_scale: float = 1.0,
        offsets_lr_scale: float = 0.1,
        config: dict[str, Any] | None = None,
        metric: Mapping[str, Any] | None = None,
    ) -> None:
        """`model` carries its `header`. `optimizer` and `schedule` are partials, for training only; None for those
        of `TrainSettings`. The backbone's rate is `backbone_lr_scale` times that of the rest, and that of offsets of
        deformable convolutions `offsets_lr_scale` times the backbone's, a tenth in the paper. `config` is the
        configuration of a run as plain values, kept in every checkpoint; `metric` is what the metric is told
        (`check_metric`).
        """
        super().__init__()
        # NHWC weights make every convolution run in that layout, up to three times faster (docs/performance).
        self.model: Model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.header: Header = model.header
        self.optimizer = optimizer
        self.schedule = schedule
        self.lr_scales = {"backbone_lr_scale": backbone_lr_scale, "offsets_lr_scale": offsets_lr_scale}
        self.config = config or {}
        self.metric_options = self.check_metric(metric)
        self.metric: Metric | None = None
        self.numbers: dict[str, float] = {}
        self.intervals: dict[str, Interval] = {}
        self.num_images = 0
        self._found_outcomes: tuple[dict[str, float], Any] | None = None
        self.guard = LossGuard(None)
        self._logs_losses = True
        self.scores_some = False
        """Whether limits of the trainer left images out of the last scores."""
        self._val_losses: list[tuple[Tensor, dict[str, Tensor]]] = []

    @classmethod
    def check_metric(cls, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The options of the metric, None for none. ValueError, before anything has run, for one that it does not
        take and for a backend that is not installed."""
        options = dict(options or {})
        for name in options:
            if name not in cls.metric_arguments:
                taken = ", ".join(f"metric.{known}" for known in cls.metric_arguments) or "no settings"
                raise ValueError(
                    f"metric.{name} means nothing to this task, whose metric takes {taken}; leave it out"
                )
        if "backend" in options:
            evaluator(options["backend"])
        return options

    # What a subclass says.

    @abstractmethod
    def build_metric(self, annotations: Any) -> Metric:
        """The metric of this task over one split, given that split's annotations."""

    @abstractmethod
    def to_original(self, predictions: Any, batch: Batch) -> Any:
        """`predictions` in pixels of the images as stored."""

    @abstractmethod
    def results(self, predictions: Any, batch: Batch) -> Sequence[Result]:
        """What `to_original` gave, as an object for each image of the batch, which can draw itself."""

    @abstractmethod
    def report(self, numbers: dict[str, float]) -> str:
        """The numbers of a validation, with `intervals` where they are known, as a table for the terminal."""

    @abstractmethod
    def write_results(self, folder: Path) -> None:
        """Writes what the last validation predicted into `folder`, in the format usual for the task."""

    # What all share.

    def find_intervals(self) -> None:
        """Sets `intervals`, of the numbers of the last validation or test, where the metric keeps what it takes. Some
        seconds for thousands of images; on one rank."""
        if (found := self._outcomes()) is not None:
            self.num_images = found.num_images
            self.intervals = intervals(found)

    def write_outcomes(self, folder: Path, split: str) -> None:
        """Writes what happened on each image of `split`, for `vertebra compare` and the report; on one rank."""
        if (found := self._outcomes()) is not None:
            annotations = cast(Any, getattr(self.metric, "coco", self.metric)).annotations
            ids, data = np.sort(annotations.image_ids), fingerprint(annotations)
            write_outcomes(folder, found, ids, data=data, split=split)

    def _outcomes(self) -> Any:
        if self._found_outcomes is None or self._found_outcomes[0] is not self.numbers:
            outcomes = getattr(self.metric, "outcomes", None)
            self._found_outcomes = self.numbers, None if outcomes is None else outcomes()
        return self._found_outcomes[1]

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the hook that runs 46 times a step; `nn.Module` would take 0.1 ms to look for parameters.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        strategy: Any = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ValueError(
                f"strategy={getattr(strategy, 'strategy_name', type(strategy).__name__)}{NOT_SHARDED}"
            )

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        check_boxes(batch)  # here, because on the device it would have to be waited for
        return batch

    def on_fit_start(self) -> None:
        self.model.train()  # of a model file it comes in evaluation mode, which Lightning would keep
        # `ThroughputMonitor` logs the losses more cheaply.
        callbacks = cast(list[Callback], self.trainer.callbacks)  # type: ignore[attr-defined]
        self._logs_losses = not any(isinstance(callback, ThroughputMonitor) for callback in callbacks)

    def on_train_start(self) -> None:
        check_ranks(self.trainer.train_dataloader, self.trainer.world_size)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        losses = self.model.losses(self.model.features(batch), batch)
        values = torch.stack(list(losses.values()))
        self.guard.watch(list(losses), values.detach(), batch)
        total = values.sum()
        if self._logs_losses:
            self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
            named = {f"train/{name}": value.detach() for name, value in losses.items() if name != "loss"}
            self.log_dict(named, batch_size=len(batch))
        return total

    @property
    def train_losses(self) -> dict[str, Tensor]:
        """The losses of the last batch and `loss`, their sum; none before the first.

        `ThroughputMonitor` logs them on some steps: through `self.log` each would cost 0.3 ms a step."""
        names, values = self.guard.latest
        return {"loss": values.sum(), **dict(zip(names, values, strict=True))} if names else {}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self.guard.check(self.trainer.global_step, self._losses_again):
            optimizer.zero_grad()  # parameters without a gradient are left as they are

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's clipping, whose norm the guard gets to see."""
        by_norm = bool(gradient_clip_val) and gradient_clip_algorithm in (None, "norm")
        # A scaler of fp16 expects gradients that are not finite, and leaves out such steps itself.
        is_scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if (by_norm and not is_scaled) or self.guard.on_nonfinite == "skip":
            parameters = [
                p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if not self.guard.check_norm(self.trainer.global_step, norm):
                optimizer.zero_grad()
            elif by_norm:
                assert gradient_clip_val is not None
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
            if by_norm:
                return
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @torch.no_grad()
    def _losses_again(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, with nothing changed by asking."""
        self.model.eval()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):  # pyright: ignore[reportUnknownMemberType]
            losses = self.model.losses(self.model.features(batch), batch)
        self.model.train()
        return losses

    def on_validation_start(self) -> None:
        trainer = self.trainer
        limits = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self.metric = self.build_metric(self._annotations(trainer.val_dataloaders, limits))
        self._val_losses = []

    def on_test_start(self) -> None:
        trainer = self.trainer
        self.metric = self.build_metric(self._annotations(trainer.test_dataloaders, trainer.num_test_batches))

    def validation_step(self, batch: Batch, batch_index: int) -> Any:
        """Predictions in original pixels, with the images that they are of: the batch, in parts that are padded
        alike."""
        found: list[Scored] = []
        for _, part in batch.alike():
            features = self.model.features(part)
            losses = self.model.losses(features, part)
            self._val_losses.append((part.image_ids, {k: v.detach().float() for k, v in losses.items()}))
            found.append(self._score(features, part))
        return found

    def test_step(self, batch: Batch, batch_index: int) -> Any:
        """As `validation_step`, without losses."""
        return [self._score(self.model.features(part), part) for _, part in batch.alike()]

    def predict_step(self, batch: Batch, batch_index: int) -> list[Any]:
        """What is found in each image, as a `Predictor` gives it."""
        found: dict[int, Any] = {}
        for rows, part in batch.alike():
            predictions = self.model.predictions(self.model.features(part), part)
            found.update(zip(rows, self.results(self.to_original(predictions, part), part), strict=True))
        return [found[row] for row in range(len(batch))]

    def _annotations(self, loader: Any, limits: Sequence[float]) -> Any:
        """Those of the split that `loader` reads: of all its images, or of those in as many batches as `limits` says,
        for a try."""
        check_ranks(loader, self.trainer.world_size)
        annotations = split_of(loader).annotations
        num_batches = [int(limit) for limit in all_gather_objects(limits[0])]
        rows = images_of(loader, num_batches)
        if len(rows) == len(annotations):
            return annotations
        seen = annotations.select(rows)
        if not self.trainer.sanity_checking and not self.scores_some:
            self.scores_some = True
            self.guard.say(
                f"scores are of {len(seen)} of {len(annotations)} images alone, as the trainer's limits say"
            )
        return seen

    def _score(self, features: Any, batch: Batch) -> Scored:
        """The predictions for a batch in original pixels, which the metric has counted, and the batch."""
        assert self.metric is not None
        predictions = self.to_original(self.model.predictions(features, batch), batch)
        self.metric.update(predictions, batch)
        return predictions, batch

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking or self.metric is None:
            return
        self.numbers = self.metric.compute()
        losses = mean_losses(self._val_losses)
        # The same on every rank, as all have gathered: each knows what is best, and nothing is averaged again.
        self.log_dict({f"val/{name}": value for name, value in (losses | self.numbers).items()})

    def on_test_epoch_end(self) -> None:
        assert self.metric is not None
        self.numbers = self.metric.compute()
        self.log_dict({f"test/{name}": value for name, value in self.numbers.items()})

    def configure_optimizers(self) -> Any:  # Lightning has a type of its own for each form
        make = self.optimizer or OPTIMIZERS["adamw"].factory()
        optimizer = build_optimizer(self.model, make, **self.lr_scales)
        schedule = self.schedule or ScheduleSettings().factory()
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps) and getattr(schedule, "func", schedule) is not constant:
            raise ValueError(ENDLESS)
        scheduler = schedule(optimizer, int(min(steps, sys.maxsize)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.check_last_norm()  # before weights are kept that it has spoilt
        checkpoint[METADATA_KEY] = vars(self.header) | {"metrics": dict(self.numbers)}
        checkpoint["config"] = self.config


def mean_losses(batches: list[tuple[Tensor, dict[str, Tensor]]]) -> dict[str, float]:
    """The mean over images of the losses of all ranks' batches, and `loss`, their sum; `batches` are image ids (B,) and
    losses of each batch of this rank.

    Summed exactly and so in any order: as long as batches hold the same images, how many ranks shared them out
    does not show.
    """
    names = list(batches[0][1]) if batches else []
    mine: list[tuple[float, ...]] = []
    if batches:
        values = torch.stack([torch.stack([losses[name] for name in names]) for _, losses in batches])
        mine = [(len(batch[0]), *row) for batch, row in zip(batches, to_list(values), strict=True)]
    ranks = all_gather_objects((names, mine))
    names = next((theirs for theirs, _ in ranks if theirs), names)
    every: list[tuple[float, ...]] = [row for _, rows in ranks for row in rows]
    total = sum(count for count, *_ in every)
    means = {
        name: math.fsum(row[0] * row[1 + column] for row in every) / total
        for column, name in enumerate(names)
    }
    return means | ({"loss": math.fsum(means.values())} if means else {})
