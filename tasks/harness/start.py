"""What a training starts from: the recipe that suits it, the network, its weights, the data and the task's module."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backbones.checks import suggest
from tasks.contracts import Model
from tasks.data import FORMATS
from tasks.data.datamodule import DataModule
from tasks.data.sources import Source
from tasks.harness.settings import TrainSettings, with_values
from tasks.harness.task import Task
from tasks.zoo.model_file import Header, load_model
from tasks.zoo.pretrained import published_model, starting_spec
from tasks.zoo.registry import TASKS, build_model, lookup, resolved_spec
from tasks.zoo.task_specs import MODEL_SPECS, TASK_SPECS, merged, recipe
from tasks.zoo.transfer import transfer

USUAL = "usual"
"""As a pyramid: the task's and model's usual one, which may be none."""
BACKBONE = "resnet50"
"""Where nothing else is said."""
NETWORK = ("model", "backbone", "pyramid", "data")
"""What a recipe says beside settings."""


def check_data(data: Any) -> Source:
    """`data`, if it is a data set; ValueError for a path."""
    if isinstance(data, str | Path):
        formats = ", ".join(FORMATS)
        raise ValueError(
            f'data={str(data)!r} is a path; open it by its format, as tasks.data.open("coco", root={str(data)!r}) '
            f"does; the formats are {formats}"
        )
    return data


def format_of(data: Source) -> str | None:
    """The name of the format of a data set, as `tasks.data.open` takes it; None for one of somebody else's."""
    kind = f"{type(data).__module__}:{type(data).__qualname__}"
    return next((name for name, address in FORMATS.items() if address == kind), None)


def recipe_settings(task: str, data: Source, model: str | None = None) -> TrainSettings:
    """The settings that suit `task` on `data` with `model`, None for the usual one; the defaults where there are no
    better ones."""
    known = _recipe(task, data, model or TASK_SPECS[task].model)
    return with_values(TrainSettings(), {k: v for k, v in known.items() if k not in NETWORK})


def resolve(
    task: str,
    data: Source,
    model: str | Mapping[str, Any] | None,
    backbone: str | Mapping[str, Any] | None,
    pyramid: str | Mapping[str, Any] | None,
    settings: TrainSettings | None,
) -> tuple[dict[str, Any], TrainSettings]:
    """The spec of the network, as `build_model` takes it, and the settings: what is None is the recipe's."""
    if task not in TASK_SPECS:
        raise ValueError(f"unknown task {task!r}; {suggest(str(task), TASK_SPECS)}")
    usual = TASK_SPECS[task]
    asked = {"name": usual.model, **_named(model)}
    if asked["name"] not in MODEL_SPECS:
        raise ValueError(f"unknown model {asked['name']!r}; {suggest(str(asked['name']), MODEL_SPECS)}")
    if asked["name"] not in usual.models:
        raise ValueError(
            f"{asked['name']} is not a model of {task}; its models are {', '.join(usual.models)}"
        )
    known = merged(
        {"backbone": {"name": BACKBONE}, "pyramid": usual.pyramid and {"name": usual.pyramid}},
        MODEL_SPECS[asked["name"]].parts,
        _recipe(task, data, asked["name"]),
    )
    spec = {
        **known.get("model", {}),
        **asked,
        "backbone": known["backbone"] if backbone is None else _named(backbone),
        "pyramid": known["pyramid"] if pyramid == USUAL else pyramid and _named(pyramid),
    }
    if (channels := spec["backbone"].get("in_channels", 3)) != 3:
        raise ValueError(
            f"backbone.in_channels={channels}: images are read, normalised and augmented as RGB, of 3 channels; leave "
            "it out, or write a loop of your own for such images (examples/plain_loop.py)"
        )
    settings = settings or recipe_settings(task, data, asked["name"])
    if settings.pretrained:
        for other, value in (
            ("init_from", settings.init_from),
            ("backbone.pretrained", spec["backbone"].get("pretrained")),
        ):
            if value:
                raise ValueError(
                    f"give pretrained={settings.pretrained}, a whole model, or {other}=, not both"
                )
        spec = starting_spec(spec, settings.pretrained)
    return spec, settings


def open_data(task: str, source: Source, settings: TrainSettings) -> DataModule:
    """The data module for `task`, once its metric was found to take its settings."""
    kind: type[Task] = lookup(TASKS, "task", task)
    kind.check_metric(settings.metric.options())
    augmentation = settings.augmentation
    if augmentation is None:
        import albumentations

        augmentation = [albumentations.HorizontalFlip()] if getattr(source, "may_be_mirrored", True) else []
    return DataModule(
        source,
        settings.preprocessing,
        augmentation=list(augmentation),
        loader=settings.loader,
        seed=settings.seed,
        **kind.data_options,
    )


def build(task: str, spec: Mapping[str, Any], data: DataModule, source: Source, seed: int) -> Model:
    """The network of `spec` with fresh weights, and its header."""
    model = build_model(
        spec, num_classes=len(data.class_names), preprocessing=data.preprocessing, pretrained=True
    )
    model.header = Header(
        task=task,
        model=resolved_spec(spec, model),
        class_names=list(data.class_names),
        category_ids=[int(i) for i in data.category_ids],
        preprocessing=data.preprocessing.to_dict(),
        provenance=provenance(source, spec["backbone"].get("pretrained", False), seed),
    )
    return model


def provenance(source: Source, pretrained: bool | str, seed: int) -> dict[str, Any]:
    """What a model file says of its origin. Names no person, machine or folder."""
    packages = ("vertebra", "torch", "torchvision", "lightning")
    return {
        "data": f"{type(source).__module__}.{type(source).__qualname__}",
        "pretrained": str(pretrained),
        "seed": seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


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


def take_weights(model: Model, settings: TrainSettings, name: str) -> list[str]:
    """Moves what fits of the model in `init_from`, or of published weights of the model called `name`, into `model`;
    what moved, in words."""
    if settings.init_from is not None:
        source = load_model(settings.init_from)
    elif settings.pretrained:
        source = published_model({"name": name}, settings.pretrained)  # whole; what fits is taken
    else:
        return []
    moved = transfer(model, source)
    header = source.header
    origin = {"task": header.task, "model": header.model["name"]}
    if settings.init_from is None:
        origin |= {key: header.provenance[key] for key in ("pretrained", "licence")}
    model.header.provenance["init_from"] = origin
    return [f"started from {settings.init_from or header.provenance['pretrained']}:\n{moved.report()}"]


def task_module(task: str, model: Model, settings: TrainSettings) -> Task:
    """The module that drives `model`."""
    return lookup(TASKS, "task", task)(
        model,
        optimizer=settings.optimizer.factory(),
        schedule=settings.schedule.factory(),
        metric=settings.metric.options(),
        **settings.task,
    )


def _recipe(task: str, data: Source, model: str) -> dict[str, Any]:
    name = format_of(data)
    return recipe(task, name, model) if name is not None else {}


def _named(part: str | Mapping[str, Any] | None) -> dict[str, Any]:
    return {"name": part} if isinstance(part, str) else dict(part or {})
