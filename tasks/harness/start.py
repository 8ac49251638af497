"""What a training starts from: the recipe that suits it, the network, its weights, the data and the task's module."""

import contextlib
import platform
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backbones.checks import suggest
from tasks.contracts import Model
from tasks.data.augmentation.named import transforms
from tasks.data.datamodule import DataModule
from tasks.data.layouts import auto
from tasks.data.sources import Source
from tasks.data.splits import SplitName
from tasks.harness.dotted import flat, nested
from tasks.harness.reporter import Reporter
from tasks.harness.settings import TrainSettings, with_values
from tasks.harness.suit import format_of, is_ones_own, suited, where_from
from tasks.harness.task import Task
from tasks.zoo.model_file import load_model, new_model
from tasks.zoo.pretrained import published_model, starting_spec
from tasks.zoo.registry import TASKS, lookup
from tasks.zoo.task_specs import MODEL_SPECS, TASK_SPECS, merged, recipe
from tasks.zoo.transfer import transfer

USUAL = "usual"
"""As a pyramid: the task's and model's usual one, which may be none."""
BACKBONE = "resnet50"
"""Where nothing else is said."""
NETWORK = ("model", "backbone", "pyramid", "data")
"""What a recipe says beside settings."""


def check_data(data: Source[Any] | str | Path, task: str | None = None) -> Source[Any]:
    """`data`, opened for `task` where it is a path."""
    return auto.open_folder(data, task=task) if isinstance(data, str | Path) else data


def describe(data: Source[Any], splits: Sequence[SplitName]) -> list[str]:
    """What was found of data that was looked for, a line; none of any other."""
    line = auto.describe(data, splits)
    return [f"found {line}"] if line else []


@contextlib.contextmanager
def saying_layout(data: Source[Any], reporter: Reporter) -> Generator[None]:
    """Where reading the data fails inside, says first what it was taken for."""
    try:
        yield
    except (OSError, ValueError):
        if getattr(data, "layout", ""):
            reporter.say(f"found {data.layout}")
        raise


def recipe_settings(task: str, data: Source[Any], model: str | None = None) -> TrainSettings:
    """The settings that suit `task` on `data` with `model`, None for the usual one: its recipe's, or those that follow
    from data of one's own, which are read."""
    name = model or TASK_SPECS[task].model
    if is_ones_own(data):
        values = {**_open_values(task, name), "pretrained": False}
        return _settings(suited(task, data, values, ["pretrained"]).values)
    return _settings({}, _recipe(task, data, name))


@dataclass(frozen=True)
class Start:
    """What a training is made of before its data is opened."""

    spec: dict[str, Any]
    """Of the network, as `build_model` takes it."""
    settings: TrainSettings
    remarks: list[str] = field(default_factory=list)
    """What was chosen, in words."""


def resolve(
    task: str,
    data: Source[Any],
    model: str | Mapping[str, Any] | None,
    backbone: str | Mapping[str, Any] | None,
    pyramid: str | Mapping[str, Any] | None,
    settings: TrainSettings | Mapping[str, Any] | None,
) -> Start:
    """What is None is the recipe's, or where there is none what suits data of one's own; a mapping is what to say
    instead of that, by dotted key."""
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
    own_recipe = _recipe(task, data, asked["name"])
    known: dict[str, Any] = merged(
        {"backbone": {"name": BACKBONE}, "pyramid": usual.pyramid and {"name": usual.pyramid}},
        MODEL_SPECS[asked["name"]].parts,
        own_recipe,
    )
    spec: dict[str, Any] = {
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
    remarks: list[str] = []
    if not isinstance(settings, TrainSettings):
        said, parts = dict(settings or {}), spec_parts(spec)
        if is_ones_own(data):
            named = {"model": model, "backbone": backbone}
            named["pyramid"] = None if pyramid == USUAL else pyramid or {}
            given = [*said, *(f"{part}.{key}" for part, of in named.items() for key in _named(of))]
            values = {**_open_values(task, asked["name"]), **flat(parts), **said}
            found = suited(task, data, values, given)
            remarks = found.remarks
            said = {**found.values, **said}
        spec = merged(parts, {key: value for key, value in nested(said).items() if key in parts})
        spec = {**spec.pop("model"), **spec}
        settings = _settings(said, own_recipe)
    return with_origin(task, Start(spec, settings, remarks))


def with_origin(task: str, start: Start) -> Start:
    """`start` with the network that its weights are of, `pretrained=auto` having found them."""
    spec, settings = start.spec, start.settings
    if settings.pretrained == "auto" and settings.init_from is None and settings.resume is None:
        found = where_from(task, spec)
        settings = replace(settings, pretrained=found.get("pretrained", False))
        if "backbone.pretrained" in found:
            spec = {**spec, "backbone": {**spec["backbone"], "pretrained": True}}
    elif settings.pretrained == "auto":
        settings = replace(settings, pretrained=False)
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
    return replace(start, spec=spec, settings=settings)


def spec_parts(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with the model's own options under `model`."""
    parts = {part: spec[part] for part in ("backbone", "pyramid")}
    return {"model": {key: value for key, value in spec.items() if key not in parts}, **parts}


def _open_values(task: str, model: str) -> dict[str, Any]:
    """What is said where nobody has said anything, as far as choices look at it."""
    usual = TrainSettings()
    return {
        "model.name": model,
        "norm": usual.norm,
        "size": usual.size,
        "pretrained": usual.pretrained,
        "loader.batch_size": usual.loader.batch_size,
        "trainer.accelerator": usual.trainer.accelerator,
    }


def _settings(values: Mapping[str, Any], under: Mapping[str, Any] | None = None) -> TrainSettings:
    """Settings of values by dotted key over others that are nested, what they say of the network left out."""
    own = {k: v for k, v in merged(under or {}, nested(values)).items() if k not in NETWORK}
    if isinstance(own.get("augmentation"), str):
        own["augmentation"] = transforms(own["augmentation"])
    return with_values(TrainSettings(), own)


def open_data(task: str, source: Source[Any], settings: TrainSettings) -> DataModule:
    """The data module for `task`, once its metric was found to take its settings."""
    kind: type[Task] = lookup(TASKS, "task", task)
    kind.check_metric(settings.metric.options())
    augmentation = settings.augmentation
    if augmentation is None:
        import albumentations  # pyright: ignore[reportMissingTypeStubs]

        augmentation = [albumentations.HorizontalFlip()] if getattr(source, "may_be_mirrored", True) else []
    return DataModule(
        source,
        settings.preprocessing,
        augmentation=list(augmentation),
        loader=settings.loader,
        seed=settings.seed,
        **kind.data_options,
    )


def build(task: str, spec: Mapping[str, Any], data: DataModule, source: Source[Any], seed: int) -> Model:
    """The network of `spec` with fresh weights, and its header."""
    return new_model(
        task,
        spec,
        data.class_names,
        data.category_ids,
        data.preprocessing,
        provenance=provenance(source, spec["backbone"].get("pretrained", False), seed),
        pretrained=True,
    )


def provenance(source: Source[Any], pretrained: bool | str, seed: int) -> dict[str, Any]:
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


def _recipe(task: str, data: Source[Any], model: str) -> dict[str, Any]:
    name = format_of(data)
    return recipe(task, name, model) if name is not None else {}


def _named(part: str | Mapping[str, Any] | None) -> dict[str, Any]:
    return {"name": part} if isinstance(part, str) else dict(part or {})
