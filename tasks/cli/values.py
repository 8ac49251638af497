"""Settings of commands that are no field of a dataclass, checked."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def whole_number(config: "DictConfig", key: str, *, least: int = 0) -> int:
    """The setting `key`, which must be a whole number of at least so many."""
    value = config[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key}={value} must be a whole number, at least {least}")
    return value
