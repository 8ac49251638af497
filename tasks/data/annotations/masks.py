"""Masks of single objects: from COCO's polygons and run lengths to box-local bitmaps, and what becomes of
those when their image is flipped, resized or augmented."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from tasks.targets import ObjectMask

NO_MASK = ObjectMask(0, 0, np.zeros((0, 0), np.uint8))


def decode_mask(segmentation: Any, height: int, width: int) -> ObjectMask:
    """An object's polygons or run lengths (as COCO writes them; None for none) in an image of that size."""
    if segmentation is None:
        return NO_MASK
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    counts = segmentation["counts"]
    lengths = run_lengths(counts.encode() if isinstance(counts, str) else counts)
    ends = np.cumsum(lengths)
    if len(ends) < 2 or ends[0] == ends[-1]:
        return NO_MASK
    # Only the columns that the object touches: an image of many objects would be decoded many times over.
    left, right = ends[0] // height, (ends[len(ends) // 2 * 2 - 1] - 1) // height + 1
    lengths = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    pixels = np.repeat(np.arange(len(lengths), dtype=np.uint8) & 1, lengths)
    columns = np.zeros((right - left) * height, np.uint8)
    columns[: len(pixels)] = pixels
    return cropped(columns.reshape(-1, height).T, int(left))


def run_lengths(counts: bytes) -> np.ndarray:
    """int64: lengths of the runs of zeros and ones in turn, column by column, which COCO's string `counts` holds.

    The format is that of `rleToString` in pycocotools: five bits a character, lowest first, a sixth where more
    follow; from the fourth on, the difference from the run two before.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(characters & 0x20 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(characters)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((characters & 0x1F) << (5 * place), first)
    values -= (characters[last] & 0x10 > 0) * (1 << (5 * (last - first + 1)))  # a negative number
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def cropped(bitmap: np.ndarray, left: int = 0, top: int = 0) -> ObjectMask:
    """A bitmap (H, W) of 0 and 1, whose corner is at (`left`, `top`), without the rows and columns of zeros
    around it."""
    rows = np.flatnonzero(bitmap.any(axis=1))
    if not len(rows):
        return NO_MASK
    rows = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(bitmap[rows].any(axis=0))
    columns = slice(int(columns[0]), int(columns[-1]) + 1)
    return ObjectMask(left + columns.start, top + rows.start, np.ascontiguousarray(bitmap[rows, columns]))


def mask_box(mask: ObjectMask) -> np.ndarray:
    """(4,) float64 xyxy: the rectangle of the mask."""
    height, width = mask.bitmap.shape
    return np.array([mask.left, mask.top, mask.left + width, mask.top + height], np.float64)


def flip_mask(mask: ObjectMask, width: int) -> ObjectMask:
    """The mask after its image of that width was mirrored left to right."""
    return ObjectMask(width - mask.left - mask.bitmap.shape[1], mask.top, mask.bitmap[:, ::-1])


def resize_mask(mask: ObjectMask, size: tuple[int, int], new_size: tuple[int, int]) -> ObjectMask:
    """The mask after its image was resized from `size` to `new_size`, both (height, width).

    A pixel of the new mask is set where bilinear interpolation between the old pixels' centres gives at least
    a half.
    """
    height, width = mask.bitmap.shape
    if not mask.bitmap.size:
        return mask
    scale_y, scale_x = new_size[0] / size[0], new_size[1] / size[1]
    left, top = int(mask.left * scale_x), int(mask.top * scale_y)
    right = min(new_size[1], int(np.ceil((mask.left + width) * scale_x)))
    bottom = min(new_size[0], int(np.ceil((mask.top + height) * scale_y)))
    # Centre of new pixel i lies at (i + 0.5) / scale - 0.5 among the old ones, counted from the bitmap's corner.
    to_old = np.array(
        [
            [1 / scale_x, 0, (left + 0.5) / scale_x - 0.5 - mask.left],
            [0, 1 / scale_y, (top + 0.5) / scale_y - 0.5 - mask.top],
        ]
    )
    resized = cv2.warpAffine(
        mask.bitmap * np.uint8(255),
        to_old,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return cropped((resized >= 128).astype(np.uint8), left, top)


def to_planes(masks: Sequence[ObjectMask], height: int, width: int) -> np.ndarray:
    """uint8 (ceil(N / 8), height, width): mask 8 i + j is bit j of plane i.

    For transforms that move whole pixels: eight masks cost what one would, and 500 of a large image fit in
    memory.
    """
    planes = np.zeros((-(-len(masks) // 8), height, width), np.uint8)
    for index, (left, top, bitmap) in enumerate(masks):
        rows, columns = slice(top, top + bitmap.shape[0]), slice(left, left + bitmap.shape[1])
        planes[index // 8, rows, columns] |= bitmap << (index % 8)
    return planes


def from_planes(planes: Sequence[np.ndarray], rows: Sequence[int]) -> list[ObjectMask]:
    """The masks of these rows out of what `to_planes` made."""
    return [cropped(planes[row // 8] >> (row % 8) & 1) for row in rows]
