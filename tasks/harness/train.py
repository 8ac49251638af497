"""`train`: from a task, data and settings to a trained model and everything about it in one folder."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from tasks.contracts import Model
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.devices import autocast, resolve_device
from tasks.harness import auto, start
from tasks.harness.checkpoints import ignore_early_warnings
from tasks.harness.compilation import compile_model
from tasks.harness.fit import Fit
from tasks.harness.loggers import log_model
from tasks.harness.outcome import write_outcome
from tasks.harness.record import Record, to_record
from tasks.harness.reporter import Reporter
from tasks.harness.resuming import check_checkpoint
from tasks.harness.session import backends, files_in, is_rank_zero, run_folder
from tasks.harness.settings import TrainSettings
from tasks.harness.suit import is_ones_own
from tasks.harness.time_ahead import LONG, duration, seconds_of_an_image, shorter
from tasks.metrics.bootstrap import Interval
from tasks.preprocessing import Preprocessing


@dataclass(frozen=True)
class Run:
    """What a training left."""

    model: Model
    """With its best validated weights and its header, where training has ended of itself."""
    numbers: dict[str, float]
    """Of the validation of these weights, by name."""
    folder: Path
    """Model file, numbers, checkpoints, log and all that says how they came about."""
    model_file: Path
    """What `tasks.load_model` and `tasks.load_predictor` take."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """Lower and upper end of the numbers by name, at 95 %."""
    stopped_by: int | None = None
    """The signal that ended the run, whose `last.ckpt` can be resumed from; None where nothing did."""


def train(
    task: str,
    data: Source[Any] | str | Path,
    *,
    model: str | Mapping[str, Any] | None = None,
    backbone: str | Mapping[str, Any] | None = None,
    pyramid: str | Mapping[str, Any] | None = start.USUAL,
    settings: TrainSettings | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    reporter: Reporter | None = None,
    record: Record | None = None,
    remarks: Sequence[str] = (),
) -> Run:
    """Trains a model and leaves everything about it in one folder.

    Everything that can be wrong with the settings or the data is found before the folder is made. Several ranks
    all call this; the first of them speaks and writes.

    Args:
        task: a name such as "detection".
        data: a data set (`tasks.data.open`), or the path of one.
        model: its name, or that and options by name; None for the task's usual one.
        backbone: the same; None for the recipe's, or a ResNet-50.
        pyramid: the same; None for no pyramid.
        settings: None for the recipe of this task on this data, or for data of one's own what suits it and this
            machine; a mapping such as {"pretrained": False, "trainer.max_steps": 500} for that with changes.
        folder: a new one; None for one under runs/.
        reporter: where it says what it does.
        record: what the folder's config.yaml says of the run; None for the settings themselves.
        remarks: what is said behind the first line.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: with one sentence, for whatever the user can mend.
    """
    started, reporter = time.perf_counter(), reporter or Reporter()
    ignore_early_warnings()
    source = start.check_data(data, task)
    started_with = start.resolve(task, source, model, backbone, pyramid, settings)
    spec, settings = started_with.spec, started_with.settings
    device = resolve_device(settings.trainer.device)
    if device.type == "cpu":
        settings.trainer.check_count()
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    spec, of_pyramid = auto.with_pyramid(spec)
    plan = Plan(task, source, spec, settings, start.open_data(task, source, settings))
    with start.saying_layout(plan.data.source, reporter):
        plan.check()
    plan, chosen = plan.completed()
    remarks = [*remarks, *started_with.remarks, *of_pyramid, *chosen, *plan.foretold()]
    settings = plan.settings
    network = plan.build()
    checkpoint = None if settings.resume is None else start.find_checkpoint(settings.resume)
    if checkpoint is None:
        origin = start.take_weights(network, settings, plan.spec["name"])
    else:
        origin = [f"resuming from {checkpoint}"]
    compile_model(network, settings.compile, settings.compile_mode)
    module = start.task_module(task, network, settings)
    if checkpoint is None:
        place = run_folder(None if folder is None else Path(folder), task)
    else:
        check_checkpoint(checkpoint, module)
        place = checkpoint.parents[1]
    record = to_record(record, task, source, plan.spec, settings, place)
    module.config = dict(record.config)
    benchmark = settings.trainer.benchmark
    if benchmark is None:  # a search for each shape pays where there is one
        benchmark = settings.preprocessing.center_crop is not None and not settings.trainer.deterministic
    with (
        reporter.writing(place / "log.txt"),
        backends(device, tf32=settings.tf32, benchmark=benchmark) as told,
    ):
        fit = Fit(module, plan.data, settings, place, reporter, checkpoint)
        found = start.describe(plan.data.source, ("train", "val", "test"))
        lines = [*found, fit.summary(), *remarks, *fit.remarks, *([told] if told else []), *origin]
        reporter.say("\n".join(lines))
        fit.write_setup(record)
        stopped_by = fit.run()
        if stopped_by is not None:
            name, step = signal.Signals(stopped_by).name, fit.trainer.global_step
            reporter.say(
                f"stopped by {name} after step {step}; go on with resume={place}, or use the model as it is with "
                f"checkpoint={fit.last.path}"
            )
        elif is_rank_zero():
            module.find_intervals()
            write_outcome(place, module, plan.data, "val")
            if fit.trainer.global_step == 0:
                reporter.say("not one step was trained: the model is the one that it began with")
            for logger in fit.trainer.loggers:
                log_model(logger, place / "model.safetensors", module.numbers)
            scores = module.report(module.numbers) if module.numbers else "not validated: there are no scores"
            reporter.result(f"{scores}\n\n{files_in(place)}")
            reporter.say(f"took {time.perf_counter() - started:.0f} s")
    numbers, intervals = dict(module.numbers), dict(module.intervals)
    return Run(module.model, numbers, place, place / "model.safetensors", intervals, stopped_by)


@dataclass(frozen=True)
class Plan:
    """What is trained, on what and how. Phases give another plan and remarks."""

    task: str
    source: Source[Any]
    spec: Mapping[str, Any]
    settings: TrainSettings
    data: DataModule

    def check(self) -> None:
        """Reads both splits and says so now if they cannot serve."""
        sized = self.data.with_batch_size(1) if self.data.loader.batch_size == "auto" else self.data
        sized.train_dataloader()
        self.data.split("val")

    def completed(self) -> tuple["Plan", list[str]]:
        """With the batch size and the norm that the settings leave open."""
        settings, data = self.settings, self.data
        remarks: list[str] = []
        if settings.loader.batch_size == "auto":
            settings, remarks = auto.with_batch_size(settings, data, self.build())
            assert settings.loader.batch_size != "auto"
            data = data.with_batch_size(settings.loader.batch_size)
            pl.seed_everything(settings.seed, workers=True, verbose=False)  # as if nothing had been tried
        spec, more = auto.with_norm(self.spec, settings)
        return replace(self, spec=spec, settings=settings, data=data), remarks + more

    def foretold(self) -> list[str]:
        """How long training will take without a GPU where that is hours, and what would take minutes."""
        settings, trainer = self.settings, self.settings.trainer
        device, steps, size = resolve_device(trainer.device), trainer.max_steps, self.data.batch_size
        if steps < 0 and (trainer.max_epochs or 0) > 0:
            steps = (trainer.max_epochs or 0) * (len(self.data.split("train")) // size)
        is_short = trainer.max_time is not None or steps < 0 or trainer.fast_dev_run
        if device.type != "cpu" or is_short or settings.resume is not None or not is_ones_own(self.source):
            return []

        def seconds(spec: Mapping[str, Any], preprocessing: Preprocessing) -> float:
            data = self.data.with_batch_size(min(2, size), preprocessing)
            backbone = {**spec["backbone"], "pretrained": False}
            model = start.build(self.task, {**spec, "backbone": backbone}, data, self.source, settings.seed)
            batch = next(iter(data.train_dataloader()))
            return (
                steps * size * seconds_of_an_image(model, batch, lambda: autocast(settings.precision, device))
            )

        expected = seconds(self.spec, settings.preprocessing)
        remarks = []
        if expected > LONG:
            remarks = [f"{steps} steps will take about {duration(expected)} without a GPU"]
            spec, images, words = shorter(self.spec)
            instead = seconds(spec, replace(settings.preprocessing, **images))
            if instead < expected / 2:
                remarks[0] += f"; {words} about {duration(instead)}"
        pl.seed_everything(settings.seed, workers=True, verbose=False)  # as if nothing had been tried
        return remarks

    def build(self) -> Model:
        """The network with fresh weights and its header."""
        spec = self.spec
        if self.settings.resume is not None:
            # The checkpoint holds all weights; the file that they came from may have gone since.
            spec = {**spec, "backbone": {k: v for k, v in spec["backbone"].items() if k != "pretrained"}}
        return start.build(self.task, spec, self.data, self.source, self.settings.seed)
