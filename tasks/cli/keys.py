"""Which keys a configuration takes, those that stand only in Python among them, and setting one of them."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.folders import config_groups
from tasks.cli.nodes import ALLOW_CODE, INTERNAL, select
from tasks.cli.words import TEXT, as_it_stands, value_of
from tasks.harness.settings import TrainSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig


def put(config: DictConfig, key: str, word: str) -> None:
    """Sets in `config` what `word` says of `key`.

    `backbone=resnet50` sets the name of a node that has one, and a key that only Python knows is added.
    """
    from omegaconf import DictConfig, OmegaConf

    *parents, last = key.split(".")
    node: Any = config
    for depth, part in enumerate(parents):
        if not isinstance(node, DictConfig) or part not in node:
            raise ValueError(unknown_key(config, key, ".".join(parents[:depth])))
        node = node._get_node(part)
    parent = ".".join(parents)
    if not isinstance(node, DictConfig) or (
        last not in list(node) and last not in known_keys(config, parent)
    ):
        raise ValueError(unknown_key(config, key, parent))
    value = as_it_stands(word, key) if has_text(config, key) else value_of(word)
    # `last in node` would miss what has no value yet.
    child = node._get_node(last) if last in list(node) else None
    has_name = isinstance(child, DictConfig) and not child._is_none() and "name" in child
    if has_name and not isinstance(value, dict):
        key = f"{key}.name"
    OmegaConf.update(config, key, value, force_add=True)


def has_text(config: DictConfig, key: str) -> bool:
    """Whether the text after the first `=` is taken as it stands for `key`, as for an argument of the data set that is
    a text or a path and nothing else."""
    if key in TEXT or key == ALLOW_CODE:
        return True
    parent, _, name = key.rpartition(".")
    node = select(config, "data") if parent == "data" else None
    if node is None or node.get("_target_") is None:
        return False
    from tasks.cli.targets import arguments

    parameter = arguments(str(node._target_), list(config.get(ALLOW_CODE, ()))).get(name)
    if parameter is None:
        return False
    kind = parameter.annotation
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return set(kinds) <= {str, Path, type(None)}


def known_keys(config: DictConfig, parent: str) -> set[str]:
    """What Python takes in the node `parent`: fields of settings, or arguments of what is built of it."""
    from omegaconf import DictConfig

    if not parent:
        # The configuration of an earlier run lacks what is newer than it.
        names = {field.name for field in dataclasses.fields(TrainSettings)} | {"run_dir"}
        return names - {"loggers", "augmentation"} if {"task", "schedule"} <= set(config) else set()
    node = select(config, parent)
    if not isinstance(node, DictConfig):
        return set()
    if parent in parts():
        return {field.name for field in dataclasses.fields(parts()[parent])}
    if parent in BUILT:
        return BUILT[parent](node.get("name"))
    if node.get("_target_") is not None:
        from tasks.cli.targets import arguments

        return set(arguments(str(node._target_), list(config.get(ALLOW_CODE, ()))))
    return set()


def unknown_key(config: DictConfig, key: str, parent: str) -> str:
    """The sentence for a key that nothing takes."""
    from omegaconf import DictConfig

    from backbones.checks import suggest

    def keys(parent: str) -> set[str]:
        node = config if not parent else select(config, parent)
        own = set(map(str, node)) if isinstance(node, DictConfig) and not node._is_none() else set()
        with contextlib.suppress(ValueError):  # of what the node names, which is another mistake
            own |= known_keys(config, parent)
        names = own - {"_target_", "_partial_", *INTERNAL}
        return {f"{parent}.{name}" if parent else name for name in names}

    tops = keys("")
    choices = keys(parent) if parent else tops.union(config_groups(), *(keys(top) for top in tops))
    return f"unknown setting {key!r}; {suggest(key, choices)}"


@cache
def parts() -> dict[str, type]:
    """The dataclasses whose fields are the keys of a node, by its name."""
    from tasks.harness.settings import CheckpointSettings, LoaderSettings, MetricSettings, TrainerSettings
    from tasks.preprocessing import Preprocessing

    return {
        "trainer": TrainerSettings,
        "loader": LoaderSettings,
        "checkpointing": CheckpointSettings,
        "metric": MetricSettings,
        "preprocessing": Preprocessing,
    }


def _model_options(name: str | None) -> set[str]:
    from tasks.zoo.registry import PREDICTION_SETTINGS, known_options, model_builder

    return set(PREDICTION_SETTINGS) if name is None else set(known_options(model_builder(name)))


def _backbone_options(name: str | None) -> set[str]:
    from backbones.create import find_builder
    from backbones.spec import default_options

    return set() if name is None else {*default_options(find_builder(name)), "pretrained"}


def _pyramid_options(name: str | None) -> set[str]:
    from backbones.pyramids import PYRAMIDS
    from backbones.spec import default_options

    return set(default_options(PYRAMIDS[name])) if name in PYRAMIDS else set()


def _task_options(name: str | None) -> set[str]:
    from tasks.zoo.registry import TASKS, lookup

    # A subclass names what it adds and hands the rest on.
    kinds = [kind for kind in lookup(TASKS, "task", name).__mro__ if "__init__" in vars(kind)]
    own = kinds[: [kind.__name__ for kind in kinds].index("Task") + 1]
    parameters = [p for kind in own for p in inspect.signature(kind).parameters.values()]
    taken = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return taken - {"optimizer", "schedule", "config", "metric"}


BUILT: dict[str, Callable[[str | None], set[str]]] = {
    "model": _model_options,
    "backbone": _backbone_options,
    "pyramid": _pyramid_options,
    "task": _task_options,
}
"""Nodes that are built by a name in them, and what that name's builder takes."""
