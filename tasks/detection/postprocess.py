"""From scored boxes to detections: non-maximum suppression of all groups at once, the best of each image.

Legend:
    B  images     M  candidates of all images together     D  most detections of an image     K  classes
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from tasks.contracts import Detections

from .boxes import at_least

_MIN_SIZE = 1e-2  # pixels; detections thinner than this are dropped, as torchvision does
# On a GPU one call of nms holds a bit for every pair of boxes: 1.25 GB at this number.
_MOST_BOXES_A_CALL = 100_000
# Devices on which one call for each group is best: nms compares all pairs one by one there.
_CALLS_ARE_CHEAP = ("cpu",)


def suppress(boxes: Tensor, scores: Tensor, group_sizes: Sequence[int], iou_threshold: float) -> Tensor:
    """Which boxes (M,) no better box of the same group overlaps by more than `iou_threshold`.

    `boxes` (M, 4), not negative, and `scores` (M,) lie group by group, `group_sizes` boxes each. Boxes
    without area suppress nothing and are not suppressed.
    """
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    start = 0
    if boxes.device.type in _CALLS_ARE_CHEAP:
        for size in group_sizes:
            part = slice(start, start + size)
            keep[part][nms(boxes[part], scores[part], iou_threshold)] = True
            start += size
        return keep
    # Elsewhere a call costs more than its comparisons: shift each group to a place of its own instead, in a
    # square rather than a row, because far from 0 float32 has too few digits left for overlaps.
    for sizes in _calls(group_sizes):
        total = sum(sizes)
        part = slice(start, start + total)
        counts = torch.tensor(sizes).pin_memory().to(boxes.device, non_blocking=True)
        group = torch.arange(len(sizes), device=boxes.device).repeat_interleave(counts, output_size=total)
        side = math.isqrt(len(sizes)) + 1
        shift = torch.stack((group % side, group // side), dim=1).repeat(1, 2) * (boxes[part].amax() + 1)
        keep[part][nms(boxes[part] + shift, scores[part], iou_threshold)] = True
        start += total
    return keep


def _calls(group_sizes: Sequence[int]) -> list[list[int]]:
    """`group_sizes` cut into runs of at most `_MOST_BOXES_A_CALL` boxes, empty runs left out."""
    runs: list[list[int]] = [[]]
    for size in group_sizes:
        if runs[-1] and sum(runs[-1]) + size > _MOST_BOXES_A_CALL:
            runs.append([])
        runs[-1].append(size)
    return [run for run in runs if sum(run)]


def best_of_each_image(
    boxes: Tensor, scores: Tensor, labels: Tensor, images: Tensor, num_images: int, max_detections: int
) -> Detections:
    """The `max_detections` candidates of each image with the highest scores above 0, as padded rows.

    Candidates are `boxes` (M, 4), `scores` (M,), `labels` (M,), and `images` (M,) in 0 … B - 1.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[images[order].argsort(stable=True)]
    boxes, scores, labels, images = boxes[order], scores[order], labels[order], images[order]
    first = torch.searchsorted(images, torch.arange(num_images, device=images.device))
    rank = torch.arange(len(images), device=images.device) - first[images]
    # What has no place goes to one row past the end, which is cut off.
    end = num_images * max_detections
    row = torch.where((rank < max_detections) & (scores > 0), images * max_detections + rank, end)
    shape = (num_images, max_detections)
    return Detections(
        boxes=boxes.new_zeros(end + 1, 4).index_copy_(0, row, boxes)[:end].view(*shape, 4),
        scores=scores.new_zeros(end + 1).index_copy_(0, row, scores)[:end].view(shape),
        labels=labels.new_full((end + 1,), -1).index_copy_(0, row, labels)[:end].view(shape),
    )


class Candidates(NamedTuple):
    """Boxes worth looking at, by image, then class."""

    images: Tensor
    """int64 (M,) in 0 … B - 1."""
    labels: Tensor
    """int64 (M,) in 0 … K - 1."""
    indices: Tensor
    """int64 (M,): which of its image's boxes."""
    group_sizes: list[int]
    """Candidates of each class of each image, B * K numbers."""


def candidates(scores: Tensor, score_threshold: float) -> Candidates:
    """All (image, box, class) whose score in `scores` (B, P, K) is above `score_threshold`."""
    chosen = (scores > score_threshold).transpose(1, 2)
    images, labels, indices = chosen.nonzero().unbind(1)
    return Candidates(images, labels, indices, chosen.sum(dim=2).flatten().tolist())


def detect(
    found: Candidates,
    boxes: Tensor,
    scores: Tensor,
    num_images: int,
    *,
    nms_threshold: float,
    max_detections: int,
) -> Detections:
    """Detections from candidates with clipped `boxes` (M, 4) and `scores` (M,); D is `max_detections`.

    Suppression works within each class of each image. Boxes under 0.01 pixels wide or high are dropped.
    """
    usable = at_least(boxes, _MIN_SIZE)
    boxes = boxes.where(usable[:, None], 0)
    keep = usable & suppress(boxes, scores, found.group_sizes, nms_threshold)
    scores = scores.where(keep, 0)
    return best_of_each_image(boxes, scores, found.labels, found.images, num_images, max_detections)
