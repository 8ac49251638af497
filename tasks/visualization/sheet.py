"""Which images of a split stand for it on a sheet."""

from collections.abc import Sequence

import numpy as np


def spread(num: int, count: int) -> Sequence[int]:
    """`count` places, or all, evenly over 0 … `num` - 1."""
    return np.unique(np.linspace(0, num - 1, min(num, count)).round().astype(int)).tolist() if num else []
