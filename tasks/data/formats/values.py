"""Numbers, flags and ids as files write them: a value that stands where a number should is read if it is one."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

NAN = float("nan")
MAX_SIDE = 1_000_000
"""Pixels; no image is wider, and what declares so is read from its file."""
WHOLE = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
CANONICAL = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
FLAGS = {"": False, "0": False, "false": False, "0.0": False, "1": True, "true": True, "1.0": True}


def is_text(value: str) -> bool:
    """Whether the string can be written; JSON can name half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_number(value: Any) -> float:
    """A number, also one that is written as a string; infinite where it is too large, NaN for anything else."""
    if isinstance(value, str):
        value = value.strip()
        if len(value) > 1000 or "_" in value:  # Python's own thousands separator
            return NAN
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        return float(value)
    except OverflowError:
        return math.inf if not isinstance(value, int) or value > 0 else -math.inf
    except ValueError:
        return NAN


def to_integer(value: Any) -> int | None:
    """A whole number of 64 bits, also one that is written as a float or a string; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        if WHOLE.fullmatch(value):
            value = int(value)
        else:
            value = to_number(value)
    if isinstance(value, float):
        if not value.is_integer() or abs(value) > 2**53:  # also NaN and infinity, which are no integers
            return None
        value = int(value)
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        return None
    return value


def to_size(height: Any, width: Any) -> tuple[int, int]:
    """(height, width) in pixels; (0, 0) where they are none of an image."""
    size = to_integer(height) or 0, to_integer(width) or 0
    return size if min(size) > 0 and max(size) <= MAX_SIDE else (0, 0)


def to_flag(value: Any) -> bool | None:
    """True or false, 1 or 0, nothing (false), and the same as strings; None for anything else."""
    if value is None:
        return False
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def to_box(value: Any) -> list[float]:
    """Four numbers; NaN where they are not four, or not numbers."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return [NAN] * 4
    return [to_number(item) for item in value]


def to_boxes(values: Sequence[Any]) -> np.ndarray:
    """(len(values), 4) float64 of `to_box`."""
    try:
        is_usual = set(map(type, values)) <= {list} and set(map(len, values)) <= {4}
        if is_usual and set(map(type, chain.from_iterable(values))) <= {int, float}:  # much faster
            return np.array(values, np.float64).reshape(-1, 4)
    except (ValueError, OverflowError):
        pass
    return np.array([to_box(value) for value in values], np.float64).reshape(-1, 4)


@dataclass
class Ids:
    """The ids that records of one kind declare, as integers."""

    numbers: np.ndarray
    """(N,) int64."""
    written: dict[int, str] = field(default_factory=dict)
    """What each number stands for, where the file's ids are strings."""
    bad: dict[int, Any] = field(default_factory=dict)
    """Records, by index, whose id is neither a whole number nor a string."""
    by_key: dict[int | str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Sequence[Any], *, by_name: bool = False) -> "Ids":
        """Ids as they stand where all are whole numbers; else numbered from 1, equal ones with equal numbers, in their
        order or, so that two files with the same ids number them alike, `by_name`."""
        if set(map(type, values)) <= {int}:
            try:
                return cls(np.array(values, np.int64))
            except OverflowError:
                pass
        keys = [to_key(value) for value in values]
        bad = {row: values[row] for row, key in enumerate(keys) if key is None}
        if all(key is None or isinstance(key, int) for key in keys):
            return cls(np.array([0 if key is None else key for key in keys], np.int64), bad=bad)
        by_key: dict[int | str, int] = {}
        if by_name:
            known = sorted(
                {key for key in keys if key is not None}, key=lambda key: (str(key), type(key).__name__)
            )
            by_key = {key: number for number, key in enumerate(known, start=1)}
        numbers = [0 if key is None else by_key.setdefault(key, len(by_key) + 1) for key in keys]
        written = {number: str(key) for key, number in by_key.items()}
        return cls(np.array(numbers, np.int64), written, bad, by_key)

    def find(self, values: Sequence[Any]) -> tuple[np.ndarray, dict[int, Any]]:
        """(len(values),) int64 of values that name these ids, and those, by index, that can name none. One that names
        an id that was not declared gets a number that was not."""
        if not self.by_key:
            found = Ids.read(values)
            if not found.by_key:
                return found.numbers, found.bad
        keys = [to_key(value) for value in values]
        bad = {row: values[row] for row, key in enumerate(keys) if key is None}
        unknown = min(0, int(self.numbers.min(initial=0))) - 1
        if self.by_key:
            numbers = [self.by_key.get(key, unknown) if key is not None else unknown for key in keys]
        else:
            numbers = [key if isinstance(key, int) else unknown for key in keys]
        return np.array(numbers, np.int64), bad


def to_key(value: Any) -> int | str | None:
    """An id by what tells it from others: the number of a whole number and of its usual spelling ("7", 7.0), else the
    string. None for what is neither."""
    if isinstance(value, str):
        stripped = value.strip()
        number = to_integer(stripped) if CANONICAL.fullmatch(stripped) else None
        return stripped if number is None else number
    return to_integer(value)
