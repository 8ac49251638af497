"""Reads segmentations as COCO writes them, and finds those that cannot be used.

Legend, beside that of tasks/data/formats/raw.py:
    ring    one polygon: x, y, x, y, … in pixels
    bounds  xyxy of all rings of an object
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.masks import run_lengths
from tasks.data.annotations.segmentations import Rings, unwrap
from tasks.data.quality.issues import BAD_SEGMENTATION, FEW_POINTS, ODD_POLYGON, RUNS_OF_OTHER_SIZE, Issue

CHUNK = 20_000
"""Objects whose polygons are looked at together."""
MAX_RUN_PIXELS = 2**31
"""Of an image with run lengths: pycocotools counts them in 32 bits."""
MAX_RUN_CHARACTERS = 7
"""Of one run length in COCO's string: 35 bits, which pycocotools reads as this code does."""


@dataclass
class ReadMasks:
    """The segmentations of M annotations as far as they can be used."""

    objects: list[Rings | bytes | None]
    """(M,) rings, without the bad ones; compressed run lengths; None without a mask."""
    issues: dict[Issue, np.ndarray]
    """(M,) bool for each issue of a segmentation."""
    bounds: np.ndarray
    """(M, 4) float64; NaN where there are no rings."""


def read_masks(segmentations: list[Any], images: np.ndarray, sizes: np.ndarray) -> ReadMasks:
    """`images` (M,) are the annotations' images, `sizes` (I, 2) the images' (height, width)."""
    num_rows = len(segmentations)
    objects: list[Rings | bytes | None] = []
    kinds = (BAD_SEGMENTATION, RUNS_OF_OTHER_SIZE, FEW_POINTS, ODD_POLYGON)
    issues = {issue: np.zeros(num_rows, bool) for issue in kinds}
    bounds = np.full((num_rows, 4), np.nan)
    sides = sizes.tolist()
    is_sound = sound_polygons(segmentations, bounds)
    for row, (segmentation, image) in enumerate(zip(segmentations, images.tolist(), strict=True)):
        if is_sound[row]:
            objects.append(segmentation)
            continue
        segmentation = unwrap(segmentation)
        usable: Rings | bytes | None = None
        try:
            if isinstance(segmentation, list):
                rings, issue = usable_rings(segmentation)
                usable = rings or None
                if rings:
                    points = np.concatenate([np.array(ring, np.float64) for ring in rings]).reshape(-1, 2)
                    bounds[row] = *points.min(axis=0), *points.max(axis=0)
            elif segmentation:
                # Of an image that is not there, nothing is known to compare with.
                size = sides[image] if image >= 0 else list(segmentation["size"])
                usable, issue = checked_runs(segmentation, size)
            else:
                issue = None
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError):
            usable, bounds[row] = None, np.nan
            issue = BAD_SEGMENTATION
        objects.append(usable)
        if issue is not None:
            issues[issue][row] = True
    return ReadMasks(objects, issues, bounds)


def sound_polygons(segmentations: Sequence[Any], bounds: np.ndarray) -> list[bool]:
    """Which of the segmentations are polygons without a fault, whose `bounds` (M, 4) are filled in: all at once, for
    looking at each of millions takes minutes."""
    rows = [row for row, item in enumerate(segmentations) if type(item) is list and item and are_rings(item)]
    is_sound = np.zeros(len(segmentations), bool)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        rings = [ring for row in part for ring in segmentations[row]]
        if not set(map(type, chain.from_iterable(rings))) <= {int, float}:
            continue  # looked at one by one
        lengths = np.fromiter(map(len, rings), np.int64, len(rings))
        try:
            values = np.fromiter(chain.from_iterable(rings), np.float64, lengths.sum())
        except OverflowError:
            continue
        counts = np.fromiter((len(segmentations[row]) for row in part), np.int64, len(part))
        of_rings = np.cumsum([0, *lengths[:-1].tolist()])[np.cumsum([0, *counts[:-1].tolist()])]
        points, firsts = values.reshape(-1, 2), of_rings // 2
        low, high = np.minimum.reduceat(points, firsts), np.maximum.reduceat(points, firsts)
        finite = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
        place = np.array(part)[finite]
        bounds[place] = np.concatenate([low, high], axis=1)[finite]
        is_sound[place] = True
    return is_sound.tolist()


def are_rings(items: list[Any]) -> bool:
    """Whether all are lists of at least three points."""
    return all(type(item) is list and len(item) >= 6 and len(item) % 2 == 0 for item in items)


def usable_rings(rings: list[Any]) -> tuple[Rings, Issue | None]:
    """The rings that make a polygon, and the worst issue of the others.

    Raises ValueError, TypeError or OverflowError where one is no list of finite numbers.
    """
    good: Rings = []
    issue = None
    for ring in rings:
        if not isinstance(ring, list | tuple):
            raise ValueError("a polygon is a list of finite numbers")
        values = np.array(ring, np.float64)
        if values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("a polygon is a list of finite numbers")
        if len(ring) % 2:
            issue = ODD_POLYGON
        elif len(ring) < 6:  # pycocotools would take four numbers for a box
            issue = issue or FEW_POINTS
        else:
            good.append(values.tolist())
    return good, issue


def checked_runs(segmentation: Any, size: list[int]) -> tuple[bytes | None, Issue | None]:
    """Compressed run lengths, or what is wrong with them for an image of that `size` (height, width).

    Raises ValueError, TypeError, KeyError or AttributeError for what is none.
    """
    height, width = size
    if height * width > MAX_RUN_PIXELS:
        raise ValueError("run lengths of an image that is too large for them")
    if list(segmentation["size"]) != [height, width]:
        return None, RUNS_OF_OTHER_SIZE
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if not all(type(count) is int for count in counts):
            raise ValueError("run lengths are whole numbers")
        if sum(counts) != height * width or min(counts) < 0:
            raise ValueError("run lengths that do not fill the image")
        return coco_mask.frPyObjects(segmentation, height, width)["counts"], None
    compressed = counts if isinstance(counts, bytes) else counts.encode()
    characters = np.frombuffer(compressed, np.uint8)
    continues = (characters - 48) & 0x20 > 0
    longest = np.diff(np.flatnonzero(~continues), prepend=-1).max(initial=0)
    if (
        not len(characters)
        or continues[-1]
        or longest > MAX_RUN_CHARACTERS
        or not ((characters >= 48) & (characters < 112)).all()
    ):
        raise ValueError("a string that holds no run lengths")
    lengths = run_lengths(compressed)
    if lengths.sum() != height * width or lengths.min() < 0:
        raise ValueError("run lengths that do not fill the image")
    return compressed, None
