"""Mask probabilities inside boxes to COCO's run lengths, box by box, without a full-size image anywhere.

Equal to resizing, pasting into an image, thresholding and encoding as torchvision and pycocotools do, pixel
for pixel, and some thirty times faster.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from tasks.contracts import ObjectMask

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
    for mask, (x0, y0, x1, y1), (h, w) in zip(padded, corners, shapes, strict=True):
        resized = memory[: h * w].view(h, w)
        torch.ops.aten.upsample_bilinear2d.out(mask[None, None], (h, w), False, out=resized[None, None])
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x1 + 1, width), min(y1 + 1, height)
        inside = resized[max(0, top - y0) : max(0, bottom - y0), max(0, left - x0) : max(0, right - x0)]
        yield ObjectMask(left, top, (inside > THRESHOLD).numpy().view(np.uint8))


def encode(mask: ObjectMask, height: int, width: int) -> bytes:
    """COCO's compressed run lengths of a mask in an image of `height` x `width`."""
    if not mask.bitmap.size:
        mask = ObjectMask(0, 0, np.zeros((1, 1), np.uint8))
    rows, columns = mask.bitmap.shape
    bitmap = mask.bitmap.astype(bool, copy=False)
    # Where each column changes, read row by row as the bitmap lies; only the few places found are put in order.
    changes = np.empty((rows + 1, columns), bool)
    changes[0] = bitmap[0]
    np.not_equal(bitmap[1:], bitmap[:-1], out=changes[1:rows])
    changes[rows] = bitmap[-1]
    row, column = np.divmod(np.flatnonzero(changes), columns)
    ends = (mask.left + column) * height + mask.top + row  # starts and ends of runs in turn
    ends.sort()
    if len(ends) > 2 and rows == height:  # a run to the bottom goes on at the top of the next column
        touching = np.flatnonzero(ends[1:-1:2] == ends[2::2])
        ends = np.delete(ends, np.concatenate([2 * touching + 1, 2 * touching + 2]))
    counts = np.diff(ends, prepend=0, append=height * width)
    if len(counts) > 1 and not counts[-1]:
        counts = counts[:-1]  # the last run ends with the image
    rle: Any = {"size": [height, width], "counts": counts.tolist()}
    return coco_mask.frPyObjects(rle, height, width)["counts"]
