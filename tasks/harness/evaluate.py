"""From a composed configuration to the numbers of a trained or published model."""

from hydra.utils import instantiate
from omegaconf import DictConfig

from tasks.contracts import Model
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.devices import keep_freed_memory, resolve_device
from tasks.harness.callbacks import PredictionPictures, progress_bar
from tasks.harness.session import (
    accelerator,
    first_rank_speaks,
    is_first,
    plain,
    precision,
    quiet,
    run_folder,
    write_outcome,
)
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header, load_model
from tasks.zoo.pretrained import TASK_OF, published_from
from tasks.zoo.registry import TASKS, lookup, with_views

PUBLISHED = {"classification": "tasks.classification.published:published_classifier"}
"""Task to what builds a model of a backbone's published weights, "module:function" as in zoo/registry.py."""


def evaluate(config: DictConfig) -> None:
    """Scores the model in `config.checkpoint`, or published weights, on a split of `config.data`, and writes
    what it found."""
    quiet()
    keep_freed_memory(resolve_device(accelerator(config)))
    source = instantiate(config.data)
    model = (
        load_model(config.checkpoint, plain(config.model))
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
        test_split=config.split,
        **lookup(TASKS, "task", header.task).data_options,
        **config.loader,
    )
    data.split(config.split)
    if config.checkpoint is not None:
        check_classes(header, data.class_names, config.checkpoint)
    task = lookup(TASKS, "task", header.task)(views, metric=plain(config.get("metric")))
    folder = run_folder(config)
    with first_rank_speaks():
        trainer = instantiate(
            config.trainer,
            precision=precision(config),
            logger=False,
            callbacks=[progress_bar(), PredictionPictures(folder)],
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,  # the data module's samplers show every image exactly once
            default_root_dir=str(folder),
        )
        trainer.test(task, datamodule=data, verbose=False)
        if is_first():
            # Of published weights there is no model file yet; it is of the model alone, without further views.
            write_outcome(folder, task, model_file=config.checkpoint is None and views is model)
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


def _published(config: DictConfig, source: Source) -> Model:
    """The model of published weights that `config` names, for the classes of `source`."""
    backbone = plain(config.backbone)
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
