"""The evidence for residual learning: plain and residual networks under one recipe, their errors and gradients.

Figures 1 and 6 of Deep Residual Learning for Image Recognition (He et al., 2016), section 4.2.

Errors are shares of images, 0 … 1. The training error is that of the batches as they were trained on,
the mean over the steps since the point before; the test error is that of the whole split.
"""

import importlib.util
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from tasks.classification.classifier import Classifier
from tasks.classification.task import ClassificationTask
from tasks.contracts import Batch
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.files import write_json
from tasks.harness.reporter import Reporter
from tasks.harness.settings import (
    OPTIMIZERS,
    LoaderSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainerSettings,
)
from tasks.harness.start import build
from tasks.preprocessing import Preprocessing
from tasks.visualization.plot_style import BLUE, ORANGE, figure
from tasks.zoo.registry import build_model

JSON_NAME, PICTURE_NAME = "residual_study.json", "residual_study.png"
NUM_LATER = 10  # last steps whose gradient norms make up "later"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How the networks are trained, all alike."""

    networks: Sequence[str] = (
        "plain_cifar_resnet20",
        "plain_cifar_resnet56",
        "cifar_resnet20",
        "cifar_resnet56",
    )
    """Their names, none twice."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Options of all of them, as norm."""
    steps: int = 2000
    """Of each network; the schedule is in shares of them."""
    points: int = 10
    """Of each curve."""
    optimizer: OptimizerSettings = OPTIMIZERS["adamw"]
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    loader: LoaderSettings = field(default_factory=lambda: LoaderSettings(batch_size=32))
    trainer: TrainerSettings = field(
        # No clipping, which would hide what shortcuts cure.
        default_factory=lambda: TrainerSettings(max_epochs=-1, devices=1, gradient_clip_val=None)
    )
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: Sequence[Any] = ()
    threads: int | None = None
    """Of PyTorch on the CPU; None is one for each core."""
    precision: str = "32-true"
    """Gradient norms of bf16 would compare roundings."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.points < 1:
            raise ValueError(f"steps={self.steps} and points={self.points} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1, or null for one on each core")
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise ValueError(f"networks={list(self.networks)} must be at least one name, and none twice")


def study(
    data: Source,
    settings: StudySettings,
    folder: Path,
    *,
    reporter: Reporter | None = None,
    record: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains each of the networks that `folder` has no results of yet, and writes what came out so far after each;
    all results by network.

    `record` is what the results say of the settings, plain values; a folder of other ones is refused.
    """
    reporter = reporter or Reporter()
    _check(settings, len(data.class_names))
    record = dict(record) if record is not None else _plain(settings)
    results = read_results(folder / JSON_NAME, record)
    folder.mkdir(parents=True, exist_ok=True)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    reporter.say(
        f"{len(settings.networks)} networks, {settings.steps} steps each; if interrupted, go on with run_dir={folder}"
    )
    for name in settings.networks:
        if name in results:
            reporter.say(f"{name}: already in {folder / JSON_NAME}")
            continue
        reporter.say(name)
        results[name] = train_network(settings, data, name, reporter)
        write_json(folder / JSON_NAME, {"settings": record, "networks": results})
        draw(results, folder / PICTURE_NAME)
    reporter.result(f"\n{error_table(results)}\n\n{folder / PICTURE_NAME}, {JSON_NAME}")
    return results


def train_network(settings: StudySettings, source: Source, name: str, reporter: Reporter) -> dict[str, Any]:
    """Trains the network called `name`; its curves and gradient norms as plain values."""
    started = time.perf_counter()
    # The same images in the same order for all.
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    data = DataModule(
        source,
        settings.preprocessing,
        augmentation=list(settings.augmentation),
        seed=settings.seed,
        eval_split="test",
        loader=settings.loader,
        **ClassificationTask.data_options,
    )
    model = build("classification", _spec(settings, name), data, source, settings.seed)
    task = ClassificationTask(
        model, optimizer=settings.optimizer.factory(), schedule=settings.schedule.factory()
    )
    every = max(1, settings.steps // settings.points)
    recorder = Recorder(every, settings.steps)
    keywords = settings.trainer.keywords()
    keywords |= {"max_steps": settings.steps, "val_check_interval": every, "check_val_every_n_epoch": None}
    trainer = pl.Trainer(
        **keywords,
        precision=settings.precision,  # type: ignore[arg-type]
        callbacks=[*reporter.callbacks(settings.trainer), recorder],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data)
    if settings.steps % every:
        trainer.validate(task, datamodule=data, verbose=False)
    return {**recorder.results(), "seconds": round(time.perf_counter() - started, 1)}


class Recorder(Callback):
    """Writes down the errors every `every` steps, and the gradient norm of each layer at the first step and
    over the last ones of `steps`."""

    def __init__(self, every: int, steps: int) -> None:
        self.every = every
        self.steps = steps
        self.train: list[dict[str, float]] = []
        self.test: list[dict[str, float]] = []
        self.norms: list[Tensor] = []  # (L,) each
        self.layers: list[tuple[str, Tensor]] = []
        self._wrong: list[Tensor] = []
        self._logits = torch.empty(0)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model = pl_module.model
        assert isinstance(model, Classifier)
        self.layers = weighted_layers(model)
        # The logits of the training step itself: a pass of their own would cost as much and see other statistics.
        model.head.register_forward_hook(self._keep_logits)

    def _keep_logits(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._logits = output.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step == 0 or trainer.global_step >= self.steps - NUM_LATER:
            gradients = [weight.grad for _, weight in self.layers if weight.grad is not None]
            assert len(gradients) == len(self.layers)
            self.norms.append(torch.stack([gradient.norm() for gradient in gradients]).cpu())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert batch.class_ids is not None
        self._wrong.append((self._logits.argmax(dim=1) != batch.class_ids).float().mean())
        if trainer.global_step % self.every == 0 or trainer.global_step == self.steps:
            error = torch.stack(self._wrong).mean().item()
            self.train.append({"step": trainer.global_step, "over": len(self._wrong), "error": error})
            self._wrong = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ClassificationTask)
        self.test.append({"step": trainer.global_step, "error": 1 - pl_module.numbers["top1"]})

    def results(self) -> dict[str, Any]:
        """All of it as plain values; a number that is none (a network that diverged) is None."""
        start, later = self.norms[0], torch.stack(self.norms[-NUM_LATER:]).mean(dim=0)
        return {
            "train": self.train,
            "test": self.test,
            "gradient_norm": {
                "layers": [name for name, _ in self.layers],
                "start": _finite(start),
                "later": _finite(later),
            },
        }


def weighted_layers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and weights of what the paper counts as layers, first to last: no shortcut is among them."""
    return [
        (name, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in name
    ]


def read_results(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The networks of the study in `path`, none where there is no file.

    Raises:
        ValueError: the study there has other `settings`, or the file is none of a study.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        there, networks = found["settings"], found["networks"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is no study's results; give another run_dir, or delete it") from None
    different = sorted(key for key in {*there, *settings} if there.get(key) != settings.get(key))
    if different:
        key = different[0]
        raise ValueError(
            f"the study in {path.parent} has {key}={there.get(key)} and this one {settings.get(key)}; go on with "
            "the same settings, or give another run_dir"
        )
    return networks


def error_table(results: dict[str, Any]) -> str:
    """The last point of each curve, in percent."""
    lines = [f"{'network':<24}{'training error':>16}{'test error':>12}{'seconds':>9}"]
    for name, result in results.items():
        train, test = result["train"][-1]["error"], result["test"][-1]["error"]
        lines.append(f"{name:<24}{100 * train:14.2f} %{100 * test:10.2f} %{result['seconds']:9.0f}")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Errors against steps and gradient norms by layer, as a PNG: a colour a family, dashes for shallower networks."""
    looks: dict[str, dict[str, Any]] = {}
    for is_plain, color in ((True, ORANGE), (False, BLUE)):
        members = sorted((name for name in results if name.startswith("plain") is is_plain), key=_depth)
        for place, name in enumerate(reversed(members)):
            looks[name] = {"color": color, "linestyle": ("-", "--", ":", "-.")[place % 4]}
    with figure(path, 17, 5.6) as drawn:
        train, test, start, later = drawn.subplots(1, 4)
        for name, result in results.items():
            middle = [point["step"] - point["over"] / 2 for point in result["train"]]
            train.plot(
                middle,
                [100 * point["error"] for point in result["train"]],
                **looks[name],
                label=title_of(name),
            )
            steps = [point["step"] for point in result["test"]]
            test.plot(steps, [100 * point["error"] for point in result["test"]], **looks[name])
            for axes, moment in ((start, "start"), (later, "later")):
                norms = [math.nan if norm is None else norm for norm in result["gradient_norm"][moment]]
                axes.plot(range(1, len(norms) + 1), norms, **looks[name])
        train.set(title="Training error, %", xlabel="step", ylim=(0, None))
        test.set(title="Test error, %", xlabel="step", ylim=(0, None))
        start.set(title="Gradient at the first step", xlabel="layer", yscale="log")
        later.set(title=f"… over the last {NUM_LATER} steps", xlabel="layer", yscale="log")
        for axes in (start, later):
            axes.yaxis.set_minor_formatter("")
        drawn.legend(loc="outside lower center", ncols=min(4, len(results)), handlelength=3)


def title_of(name: str) -> str:
    """What people call a network: `plain, 56 layers`, `ResNet-56`."""
    return f"plain, {_depth(name)} layers" if name.startswith("plain") else f"ResNet-{_depth(name)}"


def _depth(name: str) -> int:
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else 0


def _check(settings: StudySettings, num_classes: int) -> None:
    """Raises `ValueError` for what would otherwise fail after the first networks were trained."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the study draws with matplotlib, which is not installed; pip install matplotlib")
    for name in settings.networks:
        with torch.device("meta"):
            build_model(_spec(settings, name), num_classes=num_classes, preprocessing=Preprocessing())


def _spec(settings: StudySettings, name: str) -> dict[str, Any]:
    return {"name": "classifier", "backbone": {**settings.backbone, "name": name}, "pyramid": None}


def _plain(settings: StudySettings) -> dict[str, Any]:
    """What all networks of a study have in common, as JSON would bring it back."""
    values = {key: value for key, value in vars(settings).items() if key != "networks"}
    return json.loads(
        json.dumps(values, default=lambda value: getattr(value, "__dict__", None) or str(value))
    )


def _finite(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
