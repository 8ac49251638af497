"""From a composed configuration to a finished training run."""

import contextlib
import math
import platform
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

import backbones
from backbones.checks import suggest
from backbones.untrusted import first_line
from tasks.contracts import Batch, Model
from tasks.data.datamodule import DataModule
from tasks.devices import autocast, keep_freed_memory, resolve_device
from tasks.harness import loggers
from tasks.harness.auto import backbone_norm, check_compiler, rate_sentence, scaled_rate
from tasks.harness.batch_size import largest_batch_size
from tasks.harness.callbacks import PredictionPictures, progress_bar
from tasks.harness.checkpoints import (
    ExactResume,
    StoppedInValidationError,
    WholeCheckpoints,
    checkpoints,
    ignore_early_warnings,
)
from tasks.harness.ema import MovingAverage
from tasks.harness.environment import environment, logged, write_json, write_text
from tasks.harness.guards import LossGuard, is_out_of_memory, memory_advice
from tasks.harness.loggers import log_setup
from tasks.harness.resuming import check_checkpoint
from tasks.harness.session import (
    Unprofiled,
    accelerator,
    first_rank_speaks,
    is_first,
    plain,
    precision,
    quiet,
    run_folder,
    write_outcome,
)
from tasks.harness.task import Task
from tasks.harness.throughput import Pace
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header, load_checkpoint, load_model, read
from tasks.zoo.pretrained import published_model, take_published_architecture
from tasks.zoo.registry import TASKS, build_model, lookup, resolved_spec
from tasks.zoo.transfer import transfer


def train(config: DictConfig) -> None:
    """Trains what `config` describes and leaves everything about it in one run folder.

    Everything that can be wrong with the settings or the data is found before the folder is made. Several ranks
    all call this; the first of them speaks and writes.
    """
    started = time.perf_counter()
    quiet()
    ignore_early_warnings()
    if config.get("pretrained"):
        take_published_architecture(config)
    check_settings(config)
    keep_freed_memory(resolve_device(accelerator(config)))
    pl.seed_everything(config.seed, workers=True, verbose=False)
    preprocessing = Preprocessing(**config.preprocessing)
    kind: type[Task] = lookup(TASKS, "task", config.task.name)
    kind.check_metric(plain(config.get("metric")))
    finds_batch_size = config.loader.batch_size == "auto"
    data = DataModule(
        instantiate(config.data),
        preprocessing,
        augmentation=list(instantiate(config.augmentation.transforms)),
        seed=config.seed,
        **kind.data_options,
        **{**config.loader, **({"batch_size": 1} if finds_batch_size else {})},
    )
    data.train_dataloader()  # reads the split and says so now if it cannot serve
    data.split("val")
    said = _find_batch_size(config, data) if finds_batch_size else []
    said += _choose_norm(config)
    model = _build(config, data)
    checkpoint = None if config.resume is None else find_checkpoint(config.resume)
    started_from = _start_from(config, model) if checkpoint is None else [f"going on from {checkpoint}"]
    if config.compile:
        model.backbone.compile()  # in place: names of weights stay
    task = _task(config, kind, model)
    if checkpoint is not None:
        check_checkpoint(checkpoint, task)
    folder = run_folder(config) if checkpoint is None else checkpoint.parents[1]
    config.run_dir = str(folder)
    task.config = plain(config)
    with first_rank_speaks(), logged(folder / "log.txt") if is_first() else contextlib.nullcontext():
        best, last = checkpoints(folder / "checkpoints", f"val/{kind.monitor}", **plain(config.checkpointing))
        average = MovingAverage(*([] if config.ema is True else [config.ema])) if config.ema else None
        callbacks: list[Callback] = [average] if average else []
        if config.early_stopping is not None:
            callbacks.append(
                EarlyStopping(
                    f"val/{kind.monitor}",
                    mode="max",
                    patience=config.early_stopping,
                    check_on_train_epoch_end=False,  # a run that resumes behind a validation has no numbers there
                )
            )
        trainer, remarks = _trainer(config, folder, [*callbacks, best, last], resumes=checkpoint is not None)
        rate, sentence = _learning_rate(config, data, trainer)
        task.optimizer = instantiate(config.optimizer, lr=rate)  # now that the number of devices is known
        task.guard = LossGuard(folder, config.on_nonfinite)
        lines = [_summary(task, data, trainer, folder), *said, *sentence, *remarks, *started_from]
        print("\n".join(lines), flush=True)
        if is_first():
            write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            splits = {name: data.split(name) for name in ("train", "val")}
            around = environment(sys.argv[1:], splits)
            write_json(folder / "environment.json", around)
            for logger in trainer.loggers:
                log_setup(logger, plain(config), around)

        _fit(trainer, task, data, config, checkpoint)
        if last.stopped_by is not None:
            name = signal.Signals(last.stopped_by).name
            words = (
                f"stopped by {name} after step {trainer.global_step}; go on with resume={folder}, or use the model as "
                f"it is with checkpoint={last.path}"
            )
            print(words, file=sys.stderr)
            sys.exit(128 + last.stopped_by)
        if average is not None:
            average.finish(task)
        _use_best(trainer, task, data)
        if is_first():
            write_outcome(folder, task)
            print(task.report(task.numbers))
            print(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
            print(f"took {time.perf_counter() - started:.0f} s")


def check_settings(config: DictConfig) -> None:
    """Raises `ValueError` for values of the training's own settings that mean nothing, before anything is read."""
    if config.norm != "auto" and config.norm not in backbones.layers.NORMS:
        raise ValueError(
            f"norm={config.norm}; {suggest(str(config.norm), ['auto', *backbones.layers.NORMS])}"
        )
    if config.compile not in (None, False, "backbone"):
        raise ValueError(f"compile={config.compile} must be backbone, or null for none")
    if config.compile:
        check_compiler()
    if not isinstance(config.ema, bool):
        MovingAverage(config.ema)  # checks the decay
    if config.early_stopping is not None and config.early_stopping < 1:
        raise ValueError(
            f"early_stopping={config.early_stopping} must be a number of validations, at least 1, or null for never"
        )
    LossGuard(None, config.on_nonfinite)
    if config.reference_batch_size is not None:
        scaled_rate(1.0, config.reference_batch_size, 1)
    checkpoints("", "", **plain(config.checkpointing))
    if config.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={config.trainer.accelerator}: torch sees no GPU on this machine; trainer=cpu trains "
            "without one"
        )


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


def _build(config: DictConfig, data: DataModule) -> Model:
    spec = {**plain(config.model), "backbone": plain(config.backbone), "pyramid": plain(config.pyramid)}
    if config.resume is not None:  # the checkpoint holds all weights; the file may have gone since
        spec["backbone"].pop("pretrained", None)
    model = build_model(
        spec, num_classes=len(data.class_names), preprocessing=data.preprocessing, pretrained=True
    )
    model.header = Header(
        task=config.task.name,
        model=resolved_spec(spec, model),
        class_names=list(data.class_names),
        category_ids=[int(i) for i in data.category_ids],
        preprocessing=data.preprocessing.to_dict(),
        provenance=provenance(config),
    )
    return model


def _start_from(config: DictConfig, model: Model) -> list[str]:
    """Moves what fits of the model in `init_from`, or of published weights, into `model`; what moved, in words."""
    if config.init_from is not None:
        source = load_model(config.init_from)
    elif config.get("pretrained"):
        source = published_model({"name": config.model.name}, config.pretrained)  # whole; what fits is taken
    else:
        return []
    moved = transfer(model, source)
    header = source.header
    origin = {"task": header.task, "model": header.model["name"]}
    if config.init_from is None:
        origin |= {key: header.provenance[key] for key in ("pretrained", "licence")}
    model.header.provenance["init_from"] = origin
    return [f"started from {config.init_from or header.provenance['pretrained']}:\n{moved.report()}"]


def _find_batch_size(config: DictConfig, data: DataModule) -> list[str]:
    """Sets `loader.batch_size` to what fits; the sentence about it."""
    devices = config.trainer.get("devices", "auto")
    device = resolve_device(accelerator(config))
    if devices not in (1, "1", [0]) and (devices != "auto" or torch.cuda.device_count() > 1):
        raise ValueError(
            f"loader.batch_size=auto measures one device, and trainer.devices={devices} asks for more; give a number"
        )

    def largest_of_some(size: int) -> Batch:
        data.batch_size = size
        loader = iter(data.train_dataloader())
        found = [batch for _, batch in zip(range(4), loader, strict=False)]
        return max(found, key=lambda batch: batch.images.shape[-2:].numel())

    size = largest_batch_size(
        _build(config, data),
        largest_of_some,
        num_images=len(data.split("train")),
        device=device,
        autocast=lambda: autocast(config.precision, device),
    )
    config.loader.batch_size = data.batch_size = size
    pl.seed_everything(config.seed, workers=True, verbose=False)  # as if nothing had been tried
    return [f"loader.batch_size=auto: {size} fit"]


def _choose_norm(config: DictConfig) -> list[str]:
    """Sets `backbone.norm` where it is open; the sentence about it."""
    backbone = plain(config.backbone)
    starts_from = "batch" if backbone.get("pretrained") else None
    if config.init_from is not None and config.resume is None:
        starts_from = read(config.init_from)[0].model["backbone"].get("norm")
    shared = config.trainer.get("devices", 1) if config.trainer.get("sync_batchnorm") else 1
    images = config.loader.batch_size * (shared if isinstance(shared, int) and shared > 0 else 1)
    norm, sentence = backbone_norm(backbone, config.norm, batch_size=images, starts_from=starts_from)
    if norm is not None:
        OmegaConf.update(config, "backbone.norm", norm, force_add=True)
    return [sentence] if sentence else []


def _learning_rate(config: DictConfig, data: DataModule, trainer: pl.Trainer) -> tuple[float, list[str]]:
    """The rate for as many images as a step of this run has, and the sentence about it."""
    rate, reference = config.optimizer.lr, config.reference_batch_size
    if reference is None:
        return rate, []
    counts = (data.batch_size, trainer.world_size, trainer.accumulate_grad_batches)
    return scaled_rate(rate, reference, math.prod(counts)), [rate_sentence(rate, reference, *counts)]


def _task(config: DictConfig, kind: type[Task], model: Model) -> Task:
    options = {key: value for key, value in plain(config.task).items() if key != "name"}
    return kind(
        model,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        config=plain(config),
        metric=plain(config.get("metric")),
        **options,
    )


def _trainer(
    config: DictConfig, folder: Path, callbacks: list[Callback], *, resumes: bool
) -> tuple[pl.Trainer, list[str]]:
    """The trainer, and what was changed of its settings, in words."""
    remarks = []
    settings = dict(config.trainer)
    if settings.get("sync_batchnorm") and resolve_device(accelerator(config)).type == "cpu":
        settings["sync_batchnorm"] = False
        remarks = ["trainer.sync_batchnorm=true is for GPUs: on CPUs each rank keeps statistics of its own"]
    step = load_checkpoint(find_checkpoint(config.resume))["global_step"] if resumes else 0
    trainer = instantiate(
        settings,
        precision=precision(config),
        logger=[loggers.start(instantiate(logger), folder, step=step) for logger in config.logger.values()],
        callbacks=[
            progress_bar(),
            Pace(num_workers=config.loader.num_workers),
            PredictionPictures(folder),
            ExactResume(),
            *callbacks,
        ],
        profiler=settings.get("profiler") or Unprofiled(),
        plugins=[WholeCheckpoints()],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module's samplers show every image exactly once
        default_root_dir=str(folder),
    )
    return trainer, remarks


def _fit(
    trainer: pl.Trainer, task: Task, data: DataModule, config: DictConfig, checkpoint: Path | None
) -> None:
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except StoppedInValidationError:
        return
    except Exception as error:
        exact = next(c for c in trainer.callbacks if isinstance(c, ExactResume))  # type: ignore[attr-defined]
        if checkpoint is not None and not exact.is_accepted and not isinstance(error, OSError):
            raise ValueError(f"cannot resume from {checkpoint}: {first_line(error)}") from error
        if not is_out_of_memory(error):
            raise
        advice = memory_advice(
            plain(config),
            str(trainer.strategy.root_device),
            batch_size=data.batch_size,
            has_checkpointing="checkpoint_stages" in task.header.model["backbone"],
        )
        raise ValueError(advice) from error


def _use_best(trainer: pl.Trainer, task: Task, data: DataModule) -> None:
    """Leaves `task` with its best validated weights and their numbers."""
    checkpoint = trainer.checkpoint_callback
    assert isinstance(checkpoint, ModelCheckpoint)
    best = checkpoint.best_model_path and load_checkpoint(Path(checkpoint.best_model_path))
    if best and best["global_step"] != trainer.global_step:
        task.load_state_dict(best["state_dict"])
    elif best and task.numbers:
        return  # validated at the last step, and nothing was better
    trainer.validate(task, datamodule=data, verbose=False)


def _summary(task: Task, data: DataModule, trainer: pl.Trainer, folder: Path) -> str:
    millions = sum(p.numel() for p in task.model.parameters()) / 1e6
    return (
        f"{task.header.task}: {task.header.model['name']} on {task.header.model['backbone']['name']}, "
        f"{millions:.1f} M parameters; {len(data.class_names)} classes, {len(data.split('train'))} images to train, "
        f"{len(data.split('val'))} to validate; {trainer.precision} on {trainer.accelerator.name()}; into {folder}"
    )
