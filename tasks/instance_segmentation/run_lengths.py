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
    for mask, (x0, y0, x1, y1) in zip(padded, corners, strict=True):
        shape = (max(1, y1 - y0 + 1), max(1, x1 - x0 + 1))
        resized = F.interpolate(mask[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x1 + 1, width), min(y1 + 1, height)
        inside = resized[max(0, top - y0) : max(0, bottom - y0), max(0, left - x0) : max(0, right - x0)]
        yield ObjectMask(left, top, (inside > THRESHOLD).to(torch.uint8).numpy())


def encode(mask: ObjectMask, height: int, width: int) -> bytes:
    """COCO's compressed run lengths of a mask in an image of `height` x `width`."""
    bitmap = mask.bitmap
    # Column by column, each with a zero behind it, so that no run crosses from one to the next.
    columns = np.zeros((bitmap.shape[1], bitmap.shape[0] + 1), np.int8)
    columns[:, :-1] = bitmap.T
    changes = np.flatnonzero(np.diff(columns.reshape(-1), prepend=np.int8(0)))
    column, row = np.divmod(changes, bitmap.shape[0] + 1)
    ends = (mask.left + column) * height + mask.top + row  # starts and ends of runs in turn
    if (
        len(ends) > 2 and bitmap.shape[0] == height
    ):  # a run to the bottom goes on at the top of the next column
        touching = np.flatnonzero(ends[1:-1:2] == ends[2::2])
        ends = np.delete(ends, np.concatenate([2 * touching + 1, 2 * touching + 2]))
    counts = np.diff(ends, prepend=0, append=height * width)
    if len(counts) > 1 and not counts[-1]:
        counts = counts[:-1]  # the last run ends with the image
    rle: Any = {"size": [height, width], "counts": counts.tolist()}
    return coco_mask.frPyObjects(rle, height, width)["counts"]
