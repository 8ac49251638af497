"""What is known of one image, as arrays: `Target` and its parts. Whoever only reads data imports no torch.

Legend: that of tasks/contracts.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

IGNORE_LABEL = 255
"""In a class map: the class of this pixel is unknown; no loss and no metric looks at it."""


class ObjectMask(NamedTuple):
    """The pixels of one object, inside a rectangle of the image that holds all of them."""

    left: int
    top: int
    bitmap: np.ndarray
    """uint8 (h, w), 1 where the object is; (0, 0) where its mask is unknown or nothing is left of it."""


@dataclass
class Target:
    """What is known of one image, as arrays, before batching; coordinates are those of its pixels."""

    image_id: int
    """The data set's own id."""
    original_size: tuple[int, int]
    """(height, width) in pixels of the image as stored, after its EXIF orientation."""
    boxes: np.ndarray
    """(N, 4) float32 xyxy; N may be 0."""
    labels: np.ndarray
    """(N,) int64."""
    is_crowd: np.ndarray
    """(N,) bool: a region that holds many objects; never a training target, never a false positive."""
    masks: list[ObjectMask] | None = None
    """N masks in pixels of the image, where the task is instance segmentation."""
    class_id: int | None = None
    """The class of the whole image, 0 … K-1, where the task is classification."""
    class_map: np.ndarray | None = None
    """uint8 (H, W): the class of each pixel, 0 … K-1 or `IGNORE_LABEL`, where the task is semantic segmentation."""
