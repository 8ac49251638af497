"""A composed configuration: what it holds beside the keys of its files, and reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

ALLOW_CODE = "allow_code"
FOUND = "found"
"""Key of a composed configuration: the layout that was found of data that was looked for, in words."""
GIVEN = "given"
"""Key of a composed training: what somebody has said, by dotted key; null where all is said, as an experiment does."""
INTERNAL = (ALLOW_CODE, FOUND, GIVEN)
"""Keys that no file of a run keeps."""


def plain(config: Any) -> Any:
    """A configuration, or a part, as plain containers."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def select(config: DictConfig, key: str) -> Any:
    """The value or node at a dotted key, as it stands; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node._get_node(part) if hasattr(node, "_get_node") and part in node else None
    return node


def whole_number(config: DictConfig, key: str, *, least: int = 0) -> int:
    """The setting `key` of a command, which must be a whole number of at least so many."""
    value = config[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key}={value} must be a whole number, at least {least}")
    return value


def as_list(value: Any) -> list[Any]:
    """Of one value, several or None."""
    return [] if value is None else [value] if isinstance(value, str | int | float) else list(value)
