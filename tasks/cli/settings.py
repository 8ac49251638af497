"""From a composed configuration to settings, specs and data sets: the one way out of Hydra's containers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig

from tasks.cli.data import allowed_modules
from tasks.cli.nodes import INTERNAL, plain
from tasks.cli.targets import build, find
from tasks.export.settings import ExportSettings
from tasks.harness.record import Record
from tasks.harness.settings import (
    EvaluateSettings,
    OptimizerSettings,
    PredictSettings,
    TrainSettings,
    with_values,
)

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from tasks.studies.residual_study import StudySettings

TRAINER = "lightning.pytorch.Trainer"
S = TypeVar("S", TrainSettings, EvaluateSettings, PredictSettings, ExportSettings, "StudySettings")


def settings_of(kind: type[S], config: DictConfig) -> S:
    """The settings in a configuration, checked."""
    allowed = allowed_modules(config)
    values: dict[str, Any] = plain(config)
    own = {field.name: values[field.name] for field in fields(kind) if values.get(field.name) is not None}
    if "optimizer" in own:
        own["optimizer"] = _named(own["optimizer"], allowed, "torch.optim.", keep_prefix=True)
        own["schedule"] = _named(own["schedule"], allowed, "tasks.harness.optim.")
    if "augmentation" in own:
        own["augmentation"] = build(own["augmentation"]["transforms"], allowed)
    if "logger" in values:
        folder = values.get("run_dir")
        own["loggers"] = [_logger(node, folder, allowed) for node in values["logger"].values()]
    if "trainer" in own:
        target = own["trainer"].pop("_target_", TRAINER)
        if target != TRAINER:
            raise ValueError(f"trainer._target_={target} must be {TRAINER}")
    for key in ("task", "model"):
        if key in own:
            own[key] = {name: value for name, value in own[key].items() if name != "name"}
    build_settings: Any = kind
    base = (
        build_settings(optimizer=OptimizerSettings())
        if "optimizer" in {field.name for field in fields(kind)}
        else build_settings()
    )
    nothing = {key: None for key in values if values[key] is None and key in {f.name for f in fields(kind)}}
    return with_values(base, {**{k: v for k, v in nothing.items() if _may_be_none(base, k)}, **own})


def record_of(config: DictConfig, words: Sequence[str]) -> Record:
    """What the folder of a run keeps of its configuration. What the command line trusted is no part of it."""
    return Record({key: value for key, value in plain(config).items() if key not in INTERNAL}, tuple(words))


def spec_of(config: DictConfig) -> dict[str, Any]:
    """The network that a configuration describes, as `build_model` takes it."""
    parts = {part: plain(config.get(part)) or {} for part in ("model", "backbone", "pyramid")}
    return {**parts.pop("model"), **parts}


def _may_be_none(settings: Any, key: str) -> bool:
    return getattr(settings, key) is None


def _named(
    node: Mapping[str, Any], allowed: Sequence[str], prefix: str, *, keep_prefix: bool = False
) -> dict[str, Any]:
    """A node with `_target_` as the fields and options of settings with a `name`."""
    target = str(node["_target_"])
    name: Any = target if keep_prefix else target.removeprefix(prefix)
    if not target.startswith(prefix):
        name = find(target, allowed)
    return {
        "name": name,
        **{key: value for key, value in node.items() if key not in ("_target_", "_partial_")},
    }


def _logger(
    node: Mapping[str, Any], folder: str | None, allowed: Sequence[str]
) -> "str | Callable[[Path], Logger]":
    """A logger as settings name it; its folder is the run's but where the configuration says another."""
    make = find(str(node["_target_"]), allowed)
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    if options.get("folder") in (None, folder):
        options.pop("folder", None)
    from tasks.harness.loggers import LOGGERS

    if make in LOGGERS.values() and not options:
        return next(name for name, known in LOGGERS.items() if known is make)
    if make in LOGGERS.values():
        return lambda run: make(**{"folder": str(run), **options})
    return lambda run: make(**options)
