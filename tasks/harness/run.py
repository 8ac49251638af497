"""From a composed configuration to a finished training run or evaluation."""

import json
import logging
import os
import platform
import signal
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from tasks.contracts import Model
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.harness import loggers
from tasks.harness.architectures import TASKS, build_model, lookup, resolved_spec
from tasks.harness.callbacks import PredictionPictures, progress_bar
from tasks.harness.checkpoints import ExactResume, LastCheckpoint, WholeCheckpoints
from tasks.harness.model_file import Header, load_checkpoint, load_model, save_model
from tasks.harness.precision import resolve_device, resolve_precision
from tasks.harness.task import Task
from tasks.harness.transfer import transfer
from tasks.preprocessing import Preprocessing

PUBLISHED = {"classification": "tasks.classification.published:published_classifier"}
"""Task to what builds a model of published weights, "module:function" as in architectures.py."""


def train(config: DictConfig) -> None:
    """Trains what `config` describes and leaves everything about it in one run folder.

    Everything that can be wrong with the settings or the data is found before the folder is made.
    """
    started = time.perf_counter()
    _quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    preprocessing = Preprocessing(**config.preprocessing)
    data = DataModule(
        instantiate(config.data),
        preprocessing,
        augmentation=list(instantiate(config.augmentation.transforms)),
        seed=config.seed,
        **lookup(TASKS, "task", config.task.name).data_options,
        **config.loader,
    )
    data.train_dataloader()  # reads the split and says so now if it cannot serve
    data.split("val")
    spec = {**_plain(config.model), "backbone": _plain(config.backbone), "pyramid": _plain(config.pyramid)}
    model = build_model(spec, num_classes=len(data.class_names), preprocessing=preprocessing)
    model.header = Header(
        task=config.task.name,
        model=resolved_spec(spec, model),
        class_names=list(data.class_names),
        category_ids=[int(i) for i in data.category_ids],
        preprocessing=preprocessing.to_dict(),
        provenance=provenance(config),
    )
    checkpoint = None if config.resume is None else find_checkpoint(config.resume)
    started_from = (
        _start_from(config.init_from, model) if checkpoint is None else f"\ngoing on from {checkpoint}"
    )
    task = _task(config, model)
    folder = run_folder(config) if checkpoint is None else checkpoint.parents[1]
    config.run_dir = task.config["run_dir"] = str(folder)
    last = LastCheckpoint(folder / "checkpoints", **_plain(config.checkpointing))
    trainer = _trainer(config, folder, task.monitor, last, resumes=checkpoint is not None)
    _write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    print(_summary(task, data, trainer, folder) + started_from, flush=True)

    trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if last.stopped_by is not None:
        name = signal.Signals(last.stopped_by).name
        print(
            f"stopped by {name} after step {trainer.global_step}; go on with resume={folder}", file=sys.stderr
        )
        sys.exit(128 + last.stopped_by)
    _use_best(trainer, task, data)
    _write_outcome(folder, task)
    print(task.report(task.numbers))
    print(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    print(f"took {time.perf_counter() - started:.0f} s")


def evaluate(config: DictConfig) -> None:
    """Scores the model in `config.checkpoint`, or published weights, on a split of `config.data`, and writes
    what it found."""
    _quiet()
    source = instantiate(config.data)
    if config.model and config.checkpoint is None:
        raise ValueError(f"model.{next(iter(config.model))} is for a model in a file; give checkpoint=FILE")
    model = (
        load_model(config.checkpoint, _plain(config.model))
        if config.checkpoint is not None
        else _published(config, source)
    )
    header: Header = model.header
    if "task" in config and config.task.name != header.task:
        raise ValueError(
            f"{config.checkpoint} is a model for task={header.task}, not for task={config.task.name}; leave out "
            "task=, which the file knows itself"
        )
    if config.checkpoint is not None and config.backbone.pretrained:
        raise ValueError("give checkpoint=FILE or pretrained=…, not both")
    data = DataModule(
        source,
        Preprocessing(**header.preprocessing),
        eval_split=config.split,
        **lookup(TASKS, "task", header.task).data_options,
        **config.loader,
    )
    data.split(config.split)
    if config.checkpoint is not None:
        check_classes(header, data.class_names, config.checkpoint)
    folder = run_folder(config)
    task = lookup(TASKS, "task", header.task)(model)
    trainer = instantiate(
        config.trainer,
        precision=_precision(config),
        logger=False,
        callbacks=[progress_bar(), PredictionPictures(folder)],
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
    )
    trainer.validate(task, datamodule=data, verbose=False)
    _write_outcome(folder, task, model_file=False)
    print(task.report(task.numbers))
    print(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


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


def run_folder(config: DictConfig) -> Path:
    """Makes the folder of this run: `run_dir`, or one under runs/ named by the command and the time."""
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"run_dir={folder} is not empty; give another folder, or delete this one")
    else:
        model = Path(config.get("checkpoint") or config.backbone.name).stem
        name = f"evaluate-{model}" if "checkpoint" in config else config.task.name
        folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that `resume`, a run's folder or one of its checkpoints, means."""
    path = Path(resume)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(
            f"resume={resume}: there is no checkpoint at {path}; give a run's folder or a .ckpt file in it"
        )
    return path


def provenance(config: DictConfig) -> dict[str, Any]:
    """What a model file says of its origin. Names no person, machine or folder."""
    packages = ("vertebra", "torch", "torchvision", "lightning")
    return {
        "data": config.data._target_,
        "pretrained": str(config.backbone.get("pretrained", False)),
        "seed": config.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def _published(config: DictConfig, source: Source) -> Model:
    """The model of published weights that `config` names, for the classes of `source`."""
    backbone = _plain(config.backbone)
    if not backbone["pretrained"]:
        raise ValueError(
            "there is no model to score; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=classification backbone=resnet50 pretrained=true"
        )
    if "task" not in config or config.task.name not in PUBLISHED:
        raise ValueError(
            f"pretrained={backbone['pretrained']}: published weights are scored with "
            f"task={' or task='.join(PUBLISHED)}; for other tasks train a model and give checkpoint=FILE"
        )
    build = lookup(PUBLISHED, "task", config.task.name)
    return build(backbone, Preprocessing(**config.preprocessing), source.class_names)


def _start_from(path: str | None, model: Model) -> str:
    """Moves what fits of the model in `path` into `model`; what moved, in words."""
    if path is None:
        return ""
    source = load_model(path)
    moved = transfer(model, source)
    model.header.provenance["init_from"] = {"task": source.header.task, "model": source.header.model["name"]}
    return f"\nstarted from {path}:\n{moved.report()}"


def _task(config: DictConfig, model: Model) -> Task:
    kind: type[Task] = lookup(TASKS, "task", config.task.name)
    options = {key: value for key, value in _plain(config.task).items() if key != "name"}
    return kind(
        model,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        config=_plain(config),
        **options,
    )


def _trainer(
    config: DictConfig, folder: Path, monitor: str, last: LastCheckpoint, *, resumes: bool
) -> pl.Trainer:
    best = ModelCheckpoint(
        dirpath=folder / "checkpoints",
        filename="best",
        monitor=f"val/{monitor}",
        mode="max",
        enable_version_counter=False,
    )
    step = load_checkpoint(find_checkpoint(config.resume))["global_step"] if resumes else 0
    return instantiate(
        config.trainer,
        precision=_precision(config),
        logger=[loggers.start(instantiate(logger), folder, step=step) for logger in config.logger.values()],
        callbacks=[
            progress_bar(),
            LearningRateMonitor("step"),
            PredictionPictures(folder),
            ExactResume(),
            best,
            last,
        ],
        plugins=[WholeCheckpoints()],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module's samplers show every image exactly once
        default_root_dir=str(folder),
    )


def _precision(config: DictConfig) -> str:
    accelerator = config.trainer.get("accelerator", "auto")
    name = "cuda" if accelerator == "gpu" else str(accelerator)
    return resolve_precision(config.precision, resolve_device(name))


def _use_best(trainer: pl.Trainer, task: Task, data: DataModule) -> None:
    """Leaves `task` with its best validated weights and their numbers."""
    checkpoint = trainer.checkpoint_callback
    assert isinstance(checkpoint, ModelCheckpoint)
    best = checkpoint.best_model_path and torch.load(checkpoint.best_model_path, weights_only=True)
    if best and best["global_step"] != trainer.global_step:
        task.load_state_dict(best["state_dict"])
    elif best and task.numbers:
        return  # validated at the last step, and nothing was better
    trainer.validate(task, datamodule=data, verbose=False)


def _write_outcome(folder: Path, task: Task, *, model_file: bool = True) -> None:
    _write_text(folder / "metrics.json", json.dumps(task.numbers, indent=1) + "\n")
    if task.metric is not None:
        task.write_results(folder)
    if model_file:
        task.header.metrics = dict(task.numbers)
        save_model(folder / "model.safetensors", task.model, task.header)


def _summary(task: Task, data: DataModule, trainer: pl.Trainer, folder: Path) -> str:
    millions = sum(p.numel() for p in task.model.parameters()) / 1e6
    return (
        f"{task.header.task}: {task.header.model['name']} on {task.header.model['backbone']['name']}, "
        f"{millions:.1f} M parameters; {len(data.class_names)} classes, {len(data.split('train'))} images to train, "
        f"{len(data.split('val'))} to validate; {trainer.precision} on {trainer.accelerator.name()}; into {folder}"
    )


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def _plain(config: DictConfig | None) -> Any:
    return OmegaConf.to_container(config, resolve=True) if config is not None else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _quiet() -> None:
    """Silences what Lightning says that is no news to anyone."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # decoding is cheap beside a detector; loader.num_workers says otherwise
        ".*GPU available but not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
        ".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # and the module's is the one meant
        ".*LeafSpec.*is deprecated.*",  # Lightning 2.6.6 on torch 2.14
    ):
        warnings.filterwarnings("ignore", message)
