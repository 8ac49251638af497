"""`evaluate`: from a trained model and data to its numbers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from backbones.layers import keep_folded
from tasks.contracts import Metric, Model
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source, SplitName
from tasks.devices import resolve_device
from tasks.harness.callbacks import PredictionPictures
from tasks.harness.outcome import write_outcome
from tasks.harness.reporter import Reporter
from tasks.harness.session import (
    backends,
    files_in,
    interruptible,
    is_rank_zero,
    lightning_precision,
    run_folder,
)
from tasks.harness.settings import EvaluateSettings
from tasks.harness.start import check_data, describe, saying_layout
from tasks.metrics.bootstrap import Interval
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header, load_model
from tasks.zoo.registry import TASKS, lookup, with_views


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    numbers: dict[str, float]
    """By name."""
    results: Metric
    """The metric that has seen all predictions: `results.write_results` writes them in the format usual for the
    task."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """Lower and upper end of the numbers by name, at 95 %."""
    folder: Path | None = None
    """Where numbers, results and pictures are, if a folder was asked for."""


def evaluate(
    model: str | Path | Model,
    data: Source[Any] | str | Path,
    *,
    split: SplitName = "val",
    settings: EvaluateSettings | None = None,
    folder: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Scores a model on a split of `data`.

    Args:
        model: a model file, a checkpoint, or a model with its header.
        data: a data set (`tasks.data.open`) of the model's classes, in its order, or the path of one.
        split: train, val or test.
        settings: None for the defaults.
        folder: a new one, for numbers, results and pictures (of a model that came as itself, its model file too);
            None for none.
        reporter: where it says what it does.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: with one sentence, for whatever the user can mend.
    """
    settings, reporter = settings or EvaluateSettings(), reporter or Reporter()
    is_file = isinstance(model, str | Path)
    network = load_model(model, settings.model) if isinstance(model, str | Path) else model
    views = with_views(network, settings.scales, settings.flip)
    header: Header = views.header
    kind = lookup(TASKS, "task", header.task)
    source = check_data(data, header.task)
    data_module = DataModule(
        source,
        Preprocessing(**header.preprocessing),
        test_split=split,
        loader=settings.loader,
        **kind.data_options,
    )
    with saying_layout(data_module.source, reporter):
        data_module.split(split)
    if found := describe(data_module.source, (split,)):
        reporter.say("\n".join(found))
    if is_file:
        check_classes(header, data_module.class_names, str(model))
    task = kind(views, metric=settings.metric.options())
    task.guard.say = reporter.say
    place = None if folder is None else run_folder(Path(folder), "evaluate")
    pictures: list[Callback] = [] if place is None else [PredictionPictures(place)]
    trainer = pl.Trainer(
        **settings.trainer.keywords(),
        precision=lightning_precision(settings.precision, settings.trainer),  # type: ignore[arg-type]
        logger=False,
        callbacks=[*reporter.callbacks(settings.trainer), *pictures],
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,  # the data module's samplers show every image exactly once
        default_root_dir=None if place is None else str(place),
    )
    device, benchmark = resolve_device(settings.trainer.device), settings.trainer.benchmark
    in_float32 = backends(device, tf32=settings.tf32, benchmark=bool(benchmark))
    with interruptible(trainer), in_float32 as told, keep_folded(views):
        if told:
            reporter.say(told)
        trainer.test(task, datamodule=data_module, verbose=False)
    if is_rank_zero():
        task.find_intervals()
        reporter.result(task.report(task.numbers))
        if place is not None:
            # Of published weights there is no model file yet; it is of the model alone, without further views.
            is_new = not is_file and views is network
            write_outcome(place, task, data_module, split, model_file=is_new)
            reporter.result(f"\n{files_in(place)}")
    assert task.metric is not None
    return Evaluation(dict(task.numbers), task.metric, dict(task.intervals), place)


def check_classes(header: Header, class_names: list[str], path: str) -> None:
    """Raises `ValueError` unless the model's classes are those of the data, in its order."""
    mine, theirs = header.class_names, list(class_names)
    if len(mine) != len(theirs):
        raise ValueError(
            f"{path} knows {len(mine)} classes ({_some(mine)}) but the data set has {len(theirs)} "
            f"({_some(theirs)}); evaluate it on data with its own classes, or train on this data"
        )
    different = [k for k, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    if different:
        k = different[0]
        raise ValueError(
            f"{path} and the data set call {len(different)} classes by different names; the first: class {k} is "
            f"{mine[k]!r} in the model and {theirs[k]!r} in the data; rename or reorder the data's categories"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
