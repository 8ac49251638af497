"""One polygon for each mask: what formats hold that know neither run lengths nor objects of several parts.

Legend:
    ring  x, y, x, y, … in pixels, closed from its last point to its first
"""

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.masks import decode_mask

UPSCALE = 4
"""An outline through the centres of pixels would be half a pixel too small; of pixels four times as fine, an eighth."""


def outline(segmentation: Any, height: int, width: int) -> list[float] | None:
    """One ring of an object's polygons or run lengths (as COCO writes them); None where nothing is left of it.

    A single polygon stays as it is. Parts and holes are joined by lines of no width there and back, so that
    filling the ring gives the whole mask.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        if len(segmentation) == 1:
            return list(segmentation[0])
        parts: list[Any] = coco_mask.frPyObjects(segmentation, height, width)
        union: Any = coco_mask.area(coco_mask.merge(parts))
        if sum(coco_mask.area(part) for part in parts) == union:
            return join([np.array(ring, np.float64).reshape(-1, 2) for ring in segmentation])
    mask = decode_mask(segmentation, height, width)
    if not mask.bitmap.size:
        return None
    fine = np.kron(mask.bitmap, np.ones((UPSCALE, UPSCALE), np.uint8))
    contours, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(c.reshape(-1, 2) + 0.5) / UPSCALE + [mask.left, mask.top] for c in contours if len(c) > 2]
    ring = join(sorted(rings, key=len, reverse=True))
    if isinstance(
        segmentation, list
    ):  # the pixels that polygons fill may end up to one before or behind them
        points = np.concatenate([np.array(r, np.float64).reshape(-1, 2) for r in segmentation])
        ring = stretch(ring, points.min(axis=0).clip(0), points.max(axis=0).clip(None, [width, height]))
    return ring


def stretch(ring: list[float], low: np.ndarray, high: np.ndarray) -> list[float]:
    """The ring with its outermost points moved onto the sides of a box, so that this is the box around it."""
    points = np.array(ring).reshape(-1, 2)
    left_top, right_bottom = points == points.min(axis=0), points == points.max(axis=0)
    return np.where(left_top, low, np.where(right_bottom, high, points)).reshape(-1).tolist()


def join(rings: list[np.ndarray]) -> list[float]:
    """One ring that fills what all of `rings` (N, 2) together fill, joined where they are nearest."""
    joined, *others = rings
    for ring in others:
        distance = ((joined[:, None] - ring[None]) ** 2).sum(axis=2)
        i, j = np.unravel_index(distance.argmin(), distance.shape)
        joined = np.concatenate([joined[: i + 1], ring[j:], ring[: j + 1], joined[i:]])
    return joined.reshape(-1).tolist()


def clip_ring(ring: list[float], width: float, height: float) -> list[float]:
    """The part of the ring inside the image (Sutherland and Hodgman, 1974); the ring itself where it is whole, empty
    where nothing is left. Parts that the border cuts off from each other stay joined by lines along it."""
    points = np.array(ring, np.float64).reshape(-1, 2)
    if ((points >= 0) & (points <= [width, height])).all():
        return ring
    for axis, sign, limit in (
        (0, 1.0, 0.0),
        (0, -1.0, -float(width)),
        (1, 1.0, 0.0),
        (1, -1.0, -float(height)),
    ):
        if not len(points):
            return []
        beyond = sign * points[:, axis] - limit  # negative outside
        kept = []
        for here, there, a, b in zip(
            np.roll(points, 1, axis=0), points, np.roll(beyond, 1), beyond, strict=True
        ):
            if (a < 0) != (b < 0):
                crossing = here + (there - here) * (a / (a - b))
                crossing[axis] = sign * limit
                kept.append(crossing)
            if b >= 0:
                kept.append(there)
        points = np.array(kept, np.float64).reshape(-1, 2)
    points = points.clip(0, [width, height])  # what rounding left outside
    return points.reshape(-1).tolist() if len(points) > 2 else []
