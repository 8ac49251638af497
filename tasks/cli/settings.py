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
SCHEDULES = "tasks.harness.optim."
S = TypeVar("S", TrainSettings, EvaluateSettings, PredictSettings, ExportSettings, "StudySettings")


def settings_of(kind: type[S], config: DictConfig) -> S:
    """The settings in a configuration, checked."""
    allowed = allowed_modules(config)
    values: dict[str, Any] = plain(config)
    names = [field.name for field in fields(kind)]
    own = {name: values[name] for name in names if values.get(name) is not None}
    if "optimizer" in own:
        own["optimizer"] = _named(own["optimizer"], allowed)
        own["schedule"] = _named(own["schedule"], allowed)
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
    make: Any = kind
    # The options of a configuration are all there are, not those of the usual optimiser and these.
    base = make(optimizer=OptimizerSettings()) if "optimizer" in names else make()
    return with_values(base, own)


def record_of(config: DictConfig, words: Sequence[str]) -> Record:
    """What the folder of a run keeps of its configuration. What the command line trusted is no part of it."""
    return Record({key: value for key, value in plain(config).items() if key not in INTERNAL}, tuple(words))


def spec_of(config: DictConfig) -> dict[str, Any]:
    """The network that a configuration describes, as `build_model` takes it."""
    parts = {part: plain(config.get(part)) or {} for part in ("model", "backbone", "pyramid")}
    return {**parts.pop("model"), **parts}


def _named(node: Mapping[str, Any], allowed: Sequence[str]) -> dict[str, Any]:
    """A node with `_target_` as the fields and options of settings of an optimiser or a schedule, with its `name`."""
    target = str(node["_target_"])
    is_known = target.startswith(("torch.optim.", SCHEDULES))
    name = target.removeprefix(SCHEDULES) if is_known else find(target, allowed)
    return {"name": name, **{k: v for k, v in node.items() if k not in ("_target_", "_partial_")}}


def _logger(
    node: Mapping[str, Any], folder: str | None, allowed: Sequence[str]
) -> "str | Callable[[Path], Logger]":
    """A logger as settings name it; its folder is the run's but where the configuration says another."""
    make = find(str(node["_target_"]), allowed)
    options = {key: value for key, value in node.items() if not key.startswith("_")}
    if options.get("folder") in (None, folder):
        options.pop("folder", None)
    from tasks.harness.loggers import LOGGERS

    name = next((name for name, known in LOGGERS.items() if known is make), None)
    if name is None:
        return lambda run: make(**options)
    return (lambda run: make(**{"folder": str(run), **options})) if options else name
