"""A decorator of what `torch.compile` shall call as it stands, between two graphs."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, of which no graph is made: its loops and lists would be another for each of their lengths."""
    return cast(Callable[P, R], torch.compiler.disable(function))
