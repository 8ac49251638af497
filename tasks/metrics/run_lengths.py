"""Mask probabilities inside boxes to COCO's run lengths, without a full-size image anywhere.

Equal to resizing, pasting into an image, thresholding and encoding as torchvision and pycocotools do, pixel
for pixel, and many times faster (docs/performance.md).
"""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.targets import ObjectMask

THRESHOLD = 0.5
"""A pixel belongs to the object where its probability is higher."""


def bitmaps(masks: Tensor, boxes: Tensor, height: int, width: int) -> Iterator[ObjectMask]:
    """The mask of each object in an image of `height` x `width`.

    Args:
        masks: float32 (N, S, S) in 0 … 1, on a grid over each box.
        boxes: (N, 4) xyxy in pixels of the image.
        height: of the image.
        width: of the image.
    """
    size = masks.shape[-1]
    # A border of zeros, so that the mask fades out at the edge of its box.
    padded = F.pad(masks.float().cpu(), (1, 1, 1, 1))
    boxes = boxes.float().cpu()
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((size + 2) / size)
    corners = torch.cat((centre - half, centre + half), dim=1).to(torch.int64).tolist()
    shapes = [(max(1, y1 - y0 + 1), max(1, x1 - x0 + 1)) for x0, y0, x1, y1 in corners]
    # One piece of memory for all: pages that are new to the process cost more than the arithmetic.
    memory = torch.empty(max((h * w for h, w in shapes), default=0))
    numbers = memory.numpy()
    for mask, (x0, y0, x1, y1), (h, w) in zip(padded[:, None, None].unbind(), corners, shapes, strict=True):
        torch.ops.aten.upsample_bilinear2d.out(mask, (h, w), False, out=memory[: h * w].view(1, 1, h, w))
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x1 + 1, width), min(y1 + 1, height)
        resized = numbers[: h * w].reshape(h, w)
        inside = resized[max(0, top - y0) : max(0, bottom - y0), max(0, left - x0) : max(0, right - x0)]
        yield ObjectMask(left, top, (inside > THRESHOLD).view(np.uint8))


def encode(masks: Iterable[ObjectMask], height: int, width: int) -> list[bytes]:
    """COCO's compressed run lengths of each mask in an image of `height` x `width`.

    Only finding out where a mask changes is done one by one; the images of all, column by column, then lie one behind
    another, and their runs are counted and written together.
    """
    changes, places = [], []
    for left, top, bitmap in masks:
        changes.append(_changes(bitmap))
        places.append((left, top, bitmap.shape[0] + 1))
    if not places:
        return []
    owner = np.repeat(np.arange(len(places)), [len(found) for found in changes])
    lefts, tops, steps = np.array(places, np.int64).T
    column, row = np.divmod(np.concatenate(changes), steps[owner])
    pixels = height * width
    first = np.arange(len(places)) * (pixels + 1)  # of each image; one more place for what ends with it
    ends = (first + lefts * height + tops)[owner] + column * height + row  # starts and ends of runs in turn
    # A run to the bottom of the image goes on at the top of the next column.
    touching = 2 * np.flatnonzero(ends[1:-1:2] == ends[2::2])
    if len(touching):
        ends = np.delete(ends, np.concatenate([touching + 1, touching + 2]))
    numbers = np.diff(np.searchsorted(ends, first), append=len(ends)) + 1
    bounds = np.concatenate([ends, first, first + pixels])
    bounds.sort(kind="stable")  # merges the three, each in order
    last = (numbers + 1).cumsum() - 1
    counts = np.diff(bounds)
    is_empty = counts[last - 1] == 0  # the last run ends with the image
    counts = np.delete(counts, np.concatenate([last[:-1], last[is_empty] - 1]))
    return _compressed(counts.astype(np.int32), numbers - is_empty)


def _changes(bitmap: np.ndarray) -> np.ndarray:
    """Where it changes from 0 to 1 or back, read down each column and then one 0 further."""
    rows, columns = bitmap.shape
    if not bitmap.size:
        return np.zeros(0, np.int64)
    flat = np.zeros(columns * (rows + 1) + 1, np.uint8)
    cv2.transpose(bitmap, flat[:-1].reshape(columns, rows + 1)[:, 1:])
    return np.flatnonzero(flat[1:] != flat[:-1])


def _compressed(counts: np.ndarray, numbers: np.ndarray) -> list[bytes]:
    """The strings of images of which each has so many of the `counts` (int32), as `rleToString` of COCO's API writes
    them: from the fourth on as differences from the last but one, five bits to a character, lowest first."""
    starts = numbers.cumsum() - numbers
    values = counts.copy()
    values[2:] -= counts[:-2]
    for i in range(3):
        rows = starts[numbers > i] + i
        values[rows] = counts[rows]
    # A number takes as many characters as its bits and a sign need.
    magnitude = values ^ (values >> 31)
    lengths = np.ones(len(values), np.int64)
    for bits in range(4, int(counts.max()).bit_length(), 5):
        lengths += magnitude >= 1 << bits
    ends = lengths.cumsum()
    text = np.empty(ends[-1], np.uint8)
    places = ends - lengths
    while len(values):
        more = lengths > 1
        text[places] = (values & 31) + 32 * more + 48
        values, places, lengths = values[more] >> 5, places[more] + 1, lengths[more] - 1
    stops = ends[starts + numbers - 1].tolist()
    written = text.tobytes()
    return [written[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
