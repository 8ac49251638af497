"""Non-maximum suppression of all groups of all images at once.

Legend:
    M  boxes of all groups together     N  groups: levels of images, or classes of images
"""

import math

import torch
from torch import Tensor

from .kernels import kernels_for
from .nms import nms

# Without kernels of our own, a call of nms on a GPU compares all pairs of its boxes and then goes through them one
# after another: the time of both grows with the square of this number.
_MOST_BOXES_A_CALL = 8_192


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float) -> Tensor:
    """Which boxes (M,) no better box of the same group overlaps by more than `iou_threshold`.

    `boxes` (M, 4), not negative, with `scores` (M,); `groups` (M,) int64 in 0 … N - 1, in any order. Boxes without
    area suppress nothing and are not suppressed. Of equal scores the first is the better one.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    kernels = kernels_for(boxes.device)
    if kernels is not None:
        starts = torch.searchsorted(groups[order], torch.arange(num_groups + 1, device=boxes.device))
        kept = kernels.suppress_sorted(boxes[order], starts, iou_threshold)
        return torch.empty_like(kept).index_copy_(0, order, kept)
    sizes = torch.bincount(groups, minlength=num_groups).tolist()
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    if boxes.device.type == "cpu":  # nms compares boxes one by one: a call for each group is best
        runs = [[size] for size in sizes]
    else:
        runs = _runs(sizes)
    start = 0
    for run in runs:
        rows = order[start : start + sum(run)]
        start += sum(run)
        if max(run, default=0) > 1:
            keep[rows] = False
            keep[rows[nms(_apart(boxes[rows], run), scores[rows], iou_threshold)]] = True
    return keep


def _runs(sizes: list[int]) -> list[list[int]]:
    """`sizes` cut into runs of at most `_MOST_BOXES_A_CALL` boxes, or one group."""
    runs: list[list[int]] = [[]]
    for size in sizes:
        if runs[-1] and sum(runs[-1]) + size > _MOST_BOXES_A_CALL:
            runs.append([])
        runs[-1].append(size)
    return runs


def _apart(boxes: Tensor, sizes: list[int]) -> Tensor:
    """The boxes of each group shifted to a place of its own: in a square rather than a row, because far from 0
    float32 has too few digits left for overlaps."""
    if len(sizes) == 1:
        return boxes
    counts = torch.tensor(sizes, device=boxes.device)
    group = torch.arange(len(sizes), device=boxes.device).repeat_interleave(counts, output_size=len(boxes))
    side = math.isqrt(len(sizes)) + 1
    return boxes + torch.stack((group % side, group // side), dim=1).repeat(1, 2) * (boxes.amax() + 1)
