"""`Facts`: what is known of a data set before training, which defaults follow from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.data.annotations.objects import Annotations
from tasks.data.sources import Source


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A data set in a few numbers. Sides are in pixels of the images as stored."""

    num_train: int
    num_val: int
    short_side: float | None = None
    """Of the median training image; None where its annotations do not say."""
    object_sides: tuple[float, float, float] | None = None
    """Square roots of the areas of training objects as a share of the shorter side of their image: the 2nd percentile,
    the median and the 98th percentile. None where there are no objects."""
    most_objects: int = 0
    """On one image of either split."""


def facts_of(source: Source[Any]) -> Facts:
    """The facts of `source`, which is already of the kind that its task learns from. Reads both splits."""
    train, val = source.split("train"), source.split("val")
    sides: dict[str, Any] = {}
    if train.objects is not None and val.objects is not None:
        sides = _of_objects(train.objects)
        counts = [np.diff(objects.offsets) for objects in (train.objects, val.objects)]
        sides["most_objects"] = max((int(count.max()) for count in counts if len(count)), default=0)
    return Facts(num_train=len(train), num_val=len(val), **sides)


def _of_objects(objects: Annotations) -> dict[str, Any]:
    if not len(objects):
        return {}
    short = objects.sizes.min(axis=1)
    found: dict[str, Any] = {"short_side": float(np.median(short))}
    areas = objects.boxes[:, 2:].clip(0).prod(axis=1)
    counting = (areas > 0) & ~objects.is_crowd
    if counting.any():
        shares = np.sqrt(areas) / np.repeat(short, np.diff(objects.offsets))
        low, middle, high = np.quantile(shares[counting], (0.02, 0.5, 0.98)).tolist()
        found["object_sides"] = (low, middle, high)
    return found
