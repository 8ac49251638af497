"""From a composed configuration to a finished training run or evaluation."""

import contextlib
import logging
import math
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

import backbones
from tasks.contracts import Batch, Model
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.harness import loggers
from tasks.harness.architectures import TASKS, build_model, lookup, resolved_spec
from tasks.harness.averaging import MovingAverage
from tasks.harness.batch_size import largest_batch_size
from tasks.harness.callbacks import PredictionPictures, progress_bar
from tasks.harness.checkpoints import ExactResume, WholeCheckpoints, checkpoints
from tasks.harness.defaults import backbone_norm, check_compiler, rate_sentence, scaled_rate
from tasks.harness.environment import environment, logged, write_json, write_text
from tasks.harness.guards import LossGuard, is_out_of_memory, memory_advice
from tasks.harness.loggers import log_setup
from tasks.harness.model_file import Header, load_checkpoint, load_model, read, save_model
from tasks.harness.nearest import nearest
from tasks.harness.pace import Pace
from tasks.harness.precision import autocast, resolve_device, resolve_precision
from tasks.harness.predictor import with_views
from tasks.harness.published import TASK_OF, published_from, published_model, take_published_architecture
from tasks.harness.task import Task
from tasks.harness.transfer import transfer
from tasks.preprocessing import Preprocessing

RUN_DIR = "VERTEBRA_RUN_DIR"
"""Environment variable: the run folder, for ranks that the first one starts."""
PUBLISHED = {"classification": "tasks.classification.published:published_classifier"}
"""Task to what builds a model of a backbone's published weights, "module:function" as in architectures.py."""


def train(config: DictConfig) -> None:
    """Trains what `config` describes and leaves everything about it in one run folder.

    Everything that can be wrong with the settings or the data is found before the folder is made. Several ranks
    all call this; the first of them speaks and writes.
    """
    started = time.perf_counter()
    _quiet()
    if config.get("pretrained"):
        take_published_architecture(config)
    check_settings(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    preprocessing = Preprocessing(**config.preprocessing)
    kind: type[Task] = lookup(TASKS, "task", config.task.name)
    kind.check_metric(_plain(config.get("metric")))
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
    folder = run_folder(config) if checkpoint is None else checkpoint.parents[1]
    config.run_dir = str(folder)
    task.config = _plain(config)
    with _first_rank_speaks(), logged(folder / "log.txt") if _is_first() else contextlib.nullcontext():
        best, last = checkpoints(
            folder / "checkpoints", f"val/{kind.monitor}", **_plain(config.checkpointing)
        )
        average = MovingAverage(*([] if config.ema is True else [config.ema])) if config.ema else None
        callbacks: list[Callback] = [average] if average else []
        if config.early_stopping is not None:
            callbacks.append(EarlyStopping(f"val/{kind.monitor}", mode="max", patience=config.early_stopping))
        trainer, remarks = _trainer(config, folder, [*callbacks, best, last], resumes=checkpoint is not None)
        rate, sentence = _learning_rate(config, data, trainer)
        task.optimizer = instantiate(config.optimizer, lr=rate)  # now that the number of devices is known
        task.guard = LossGuard(folder, config.on_nonfinite)
        lines = [_summary(task, data, trainer, folder), *said, *sentence, *remarks, *started_from]
        print("\n".join(lines), flush=True)
        if _is_first():
            write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            splits = {name: data.split(name) for name in ("train", "val")}
            around = environment(sys.argv[1:], splits)
            write_json(folder / "environment.json", around)
            for logger in trainer.loggers:
                log_setup(logger, _plain(config), around)

        _fit(trainer, task, data, config, checkpoint)
        if last.stopped_by is not None:
            name = signal.Signals(last.stopped_by).name
            words = f"stopped by {name} after step {trainer.global_step}; go on with resume={folder}"
            print(words, file=sys.stderr)
            sys.exit(128 + last.stopped_by)
        if average is not None:
            average.finish(task)
        _use_best(trainer, task, data)
        if _is_first():
            _write_outcome(folder, task)
            print(task.report(task.numbers))
            print(f"\n{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
            print(f"took {time.perf_counter() - started:.0f} s")


def evaluate(config: DictConfig) -> None:
    """Scores the model in `config.checkpoint`, or published weights, on a split of `config.data`, and writes
    what it found."""
    _quiet()
    source = instantiate(config.data)
    model = (
        load_model(config.checkpoint, _plain(config.model))
        if config.checkpoint is not None
        else _published(config, source)
    )
    views = with_views(model, config.scales, config.flip)
    header: Header = views.header
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
    task = lookup(TASKS, "task", header.task)(views, metric=_plain(config.get("metric")))
    folder = run_folder(config)
    with _first_rank_speaks():
        trainer = instantiate(
            config.trainer,
            precision=_precision(config),
            logger=False,
            callbacks=[progress_bar(), PredictionPictures(folder)],
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,  # the data module's samplers show every image exactly once
            default_root_dir=str(folder),
        )
        trainer.validate(task, datamodule=data, verbose=False)
        if _is_first():
            # Of published weights there is no model file yet; it is of the model alone, without further views.
            _write_outcome(folder, task, model_file=config.checkpoint is None and views is model)
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
    """Makes the folder of this run: `run_dir`, or one under runs/ named by the command and the time.

    Of several ranks the first makes it; those that Lightning starts are told which by an environment variable.
    """
    if RUN_DIR in os.environ and not _is_first():
        return Path(os.environ[RUN_DIR])
    if config.run_dir is None and _starts_with_others():
        raise ValueError(
            "several processes were started for this run (torchrun, srun), which need one folder: give run_dir=DIR"
        )
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        if _is_first() and folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"run_dir={folder} is not empty; give another folder, or delete this one")
    else:
        model = Path(config.get("checkpoint") or config.backbone.name).stem
        name = f"evaluate-{model}" if "checkpoint" in config else config.task.name
        folder = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[RUN_DIR] = str(folder)  # for the ranks that this process may start
    return folder


def check_settings(config: DictConfig) -> None:
    """Raises `ValueError` for values of the training's own settings that mean nothing, before anything is read."""
    if config.norm != "auto" and config.norm not in backbones.layers.NORMS:
        raise ValueError(
            f"norm={config.norm}; {nearest(str(config.norm), ['auto', *backbones.layers.NORMS])}"
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
    checkpoints("", "", **_plain(config.checkpointing))
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


def _published(config: DictConfig, source: Source) -> Model:
    """The model of published weights that `config` names, for the classes of `source`."""
    backbone = _plain(config.backbone)
    if not backbone["pretrained"]:
        raise ValueError(
            "there is no model to score; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=classification backbone=resnet50 pretrained=true, or task=detection pretrained=COCO_V2"
        )
    task = config.task.name if "task" in config else None
    if task in TASK_OF.values():
        return published_from(config, class_names=source.class_names)
    if task not in PUBLISHED:
        tasks = dict.fromkeys((*PUBLISHED, *TASK_OF.values()))
        raise ValueError(
            f"pretrained={backbone['pretrained']}: published weights are scored with "
            f"task={' or task='.join(tasks)}; for other tasks train a model and give checkpoint=FILE"
        )
    build = lookup(PUBLISHED, "task", config.task.name)
    return build(backbone, Preprocessing(**config.preprocessing), source.class_names)


def _build(config: DictConfig, data: DataModule) -> Model:
    spec = {**_plain(config.model), "backbone": _plain(config.backbone), "pyramid": _plain(config.pyramid)}
    model = build_model(spec, num_classes=len(data.class_names), preprocessing=data.preprocessing)
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
    device = resolve_device(_accelerator(config))
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
    backbone = _plain(config.backbone)
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
    options = {key: value for key, value in _plain(config.task).items() if key != "name"}
    return kind(
        model,
        optimizer=instantiate(config.optimizer),
        schedule=instantiate(config.schedule),
        config=_plain(config),
        metric=_plain(config.get("metric")),
        **options,
    )


def _trainer(
    config: DictConfig, folder: Path, callbacks: list[Callback], *, resumes: bool
) -> tuple[pl.Trainer, list[str]]:
    """The trainer, and what was changed of its settings, in words."""
    remarks = []
    settings = dict(config.trainer)
    if settings.get("sync_batchnorm") and resolve_device(_accelerator(config)).type == "cpu":
        settings["sync_batchnorm"] = False
        remarks = ["trainer.sync_batchnorm=true is for GPUs: on CPUs each rank keeps statistics of its own"]
    step = load_checkpoint(find_checkpoint(config.resume))["global_step"] if resumes else 0
    trainer = instantiate(
        settings,
        precision=_precision(config),
        logger=[loggers.start(instantiate(logger), folder, step=step) for logger in config.logger.values()],
        callbacks=[
            progress_bar(),
            LearningRateMonitor("step"),
            Pace(num_workers=config.loader.num_workers),
            PredictionPictures(folder),
            ExactResume(),
            *callbacks,
        ],
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
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = memory_advice(
            _plain(config),
            str(trainer.strategy.root_device),
            batch_size=data.batch_size,
            has_checkpointing="checkpoint_stages" in task.header.model["backbone"],
        )
        raise ValueError(advice) from error


def _accelerator(config: DictConfig) -> str:
    name = str(config.trainer.get("accelerator", "auto"))
    return "cuda" if name == "gpu" else name


def _is_first() -> bool:
    """Whether this process is the only rank or the first."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _starts_with_others() -> bool:
    """Whether something else than Lightning started several ranks."""
    return any(int(os.environ.get(name, 1)) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS"))


@contextlib.contextmanager
def _first_rank_speaks() -> Iterator[None]:
    """What other ranks print is dropped."""
    if _is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _precision(config: DictConfig) -> str:
    return resolve_precision(config.precision, resolve_device(_accelerator(config)))


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
    write_json(folder / "metrics.json", task.numbers)
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
        ".*could not find the monitored key in the returned metrics.*",  # an epoch before the first validation
        ".*GPU available but not used.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # of a run that goes on
        ".*overridden `on_before_batch_transfer` in `LightningModule`.*",  # and the module's is the one meant
        ".*recommended to use .*sync_dist=True.* when logging on epoch level.*",  # metrics gather themselves
        ".*LeafSpec.*is deprecated.*",  # Lightning 2.6.6 on torch 2.14
    ):
        warnings.filterwarnings("ignore", message)
