"""Hydra, which puts the files in `configs/` together with the groups that stand in Python (tasks, models, recipes,
optimisers, schedules)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from tasks.cli.folders import CONFIGS
from tasks.cli.groups import OWN_PACKAGE, python_groups, roots
from tasks.cli.nodes import ALLOW_CODE, FOUND

if TYPE_CHECKING:
    from omegaconf import DictConfig


def composed_by_hydra(config_name: str, overrides: list[str]) -> DictConfig:
    """What Hydra makes of choices."""
    import hydra
    from omegaconf import OmegaConf

    with own_hydra():
        config = hydra.compose(config_name, overrides=overrides)
    for key in (ALLOW_CODE, FOUND):
        if key in config:
            raise ValueError(f"{key} is for the command line alone; no configuration file may say it")
    OmegaConf.set_struct(config, False)
    return config


@contextlib.contextmanager
def own_hydra() -> Iterator[None]:
    """Hydra set up for one composition, whatever it is in the middle of, such as a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    register()
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


@cache
def register() -> None:
    """Shows Hydra the groups that stand in Python, and the defaults of the settings."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, choices in python_groups().items():
        for name, node in choices.items():
            package = None if group in OWN_PACKAGE else "_global_"
            store.store(group=group, name=name, node=node, package=package)
    for name, node in roots().items():
        store.store(name=name, node=node, package="_global_")
