"""`Record`: what a run's config.yaml says of it, in the form that the command line composes and resumes from."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from tasks.data.sources import Source
from tasks.harness.settings import TrainerSettings, TrainSettings

ALWAYS = {"max_epochs", "gradient_clip_val", "log_every_n_steps", "batch_size", "num_workers"}
"""Fields of settings that are written whatever they are."""


@dataclass(frozen=True)
class Record:
    """A run as plain values."""

    config: Mapping[str, Any]
    """Nested as `configs/train.yaml`."""
    overrides: Sequence[str] = ()
    """The words of the command line."""


def to_record(
    record: Record | None,
    task: str,
    source: Source[Any],
    spec: Mapping[str, Any],
    settings: TrainSettings,
    folder: Path,
) -> Record:
    """`record`, or one made of all this, with what the run has chosen itself."""
    config = dict(record.config) if record is not None else settings_config(task, source, settings)
    model = {key: value for key, value in spec.items() if key not in ("backbone", "pyramid")}
    config |= {"model": model, "backbone": spec["backbone"], "pyramid": spec["pyramid"]}
    config["loader"] = {**config["loader"], "batch_size": settings.loader.batch_size}
    return Record(config | {"run_dir": str(folder)}, record.overrides if record is not None else ())


def settings_config(task: str, source: Source[Any], settings: TrainSettings) -> dict[str, Any]:
    """The settings of a training in the form of a configuration, its network apart."""
    plain = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for name in ("optimizer", "schedule"):
        part = plain[name]
        module = "torch.optim" if name == "optimizer" else "tasks.harness.optim"
        target = part.name if isinstance(part.name, str) else _address(part.name)
        target = target if "." in target else f"{module}.{target}"
        lr = {"lr": part.lr} if name == "optimizer" else {}
        plain[name] = {"_target_": target, "_partial_": True, **lr, **part.options}
    for name in ("trainer", "loader", "preprocessing", "checkpointing", "metric"):
        plain[name] = changed(plain[name])
    plain["trainer"] = {"_target_": "lightning.pytorch.Trainer", **plain["trainer"]}
    plain["augmentation"] = {"transforms": [described(t) for t in settings.augmentation or ()]}
    plain["logger"] = {
        logger if isinstance(logger, str) else f"logger{place}": {
            "_target_": f"tasks.harness.loggers.{logger}" if isinstance(logger, str) else _address(logger)
        }
        for place, logger in enumerate(plain.pop("loggers"))
    }
    return {**_plain(plain), "data": described(source), "task": {"name": task, **settings.task}}


def changed(settings: Any) -> dict[str, Any]:
    """The fields of settings that are not as they are by default, and those that are always written."""
    assert is_dataclass(settings)
    usual = type(settings)()
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    if isinstance(settings, TrainerSettings) and settings.val_check_interval == "max_steps":
        values["val_check_interval"] = settings.max_steps
    return {key: v for key, v in values.items() if key in ALWAYS or v != getattr(usual, key)}


def described(part: Any) -> dict[str, Any]:
    """A data set or a transform by its class and arguments, those that it still knows where nothing else says them."""
    kind = cast(type[object], type(part))
    opened_as = getattr(part, "opened_as", None)
    if opened_as is not None:
        known = opened_as[1]
    else:
        names = inspect.signature(kind).parameters
        known = {name: getattr(part, name) for name in names if hasattr(part, name)}
    return {"_target_": _address(kind), **_plain({k: v for k, v in known.items() if _is_plain(v)})}


def _address(part: Callable[..., Any]) -> str:
    return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', type(part).__qualname__)}"


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, cast(Sequence[object], value)))
    return value is None or isinstance(value, str | int | float | bool | Path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast(Sequence[Any], value)]
    return str(value) if isinstance(value, Path) else value
