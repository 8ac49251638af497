"""The data set and the transforms that a composed configuration names; imports nothing that trains."""

from typing import Any

from omegaconf import DictConfig

from tasks.cli.nodes import ALLOW_CODE, FOUND, plain
from tasks.cli.targets import build
from tasks.data.sources import Source


def data_of(config: DictConfig) -> Source:
    """The data set that a configuration names."""
    source: Source = build(plain(config.data), allowed_modules(config), "data.")
    source.layout = str(config.get(FOUND, ""))
    return source


def told_data_of(config: DictConfig) -> Source:
    """The same; prints what layout was found where the data was looked for."""
    source = data_of(config)
    if source.layout:
        print(f"found {source.layout}")
    return source


def transforms_of(config: DictConfig) -> list[Any]:
    """The transforms of training images."""
    return build(plain(config.augmentation.transforms), allowed_modules(config))


def allowed_modules(config: DictConfig) -> list[str]:
    """The modules that the command line trusts."""
    return list(config.get(ALLOW_CODE, ()))
