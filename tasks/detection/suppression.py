"""Non-maximum suppression of all groups of all images at once.

Legend:
    B  images     P  boxes of an image, padding included
    M  boxes of all groups together     N  groups: levels of images, or classes of images
"""

import math

import torch
from torch import Tensor

from .kernels import kernels_for
from .nms import load_operators, nms

# Without kernels of our own, a call of nms on a GPU compares all pairs of its boxes and then goes through them one
# after another: the time of both grows with the square of this number.
_MOST_BOXES_A_CALL = 8_192
# On a CPU it compares boxes one by one, so that many groups in a call cost more than the calls that they save.
_MOST_BOXES_A_CALL_ON_A_CPU = 256


def suppress_images(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float
) -> Tensor:
    """Which boxes (B, P) no better one of the same group of their image overlaps by more than `iou_threshold`.

    `boxes` (B, P, 4), not negative, with `scores` and `groups` (B, P), int64 in 0 … `num_groups` - 1. Boxes without
    area are padding, of which nothing is said. One operator in a graph that is exported or compiled.
    """
    if torch.compiler.is_compiling():
        return suppress_operator(boxes, scores, groups, num_groups, iou_threshold)
    return _suppress_images(boxes, scores, groups, num_groups, iou_threshold)


def _suppress_images(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float
) -> Tensor:
    num_images = len(boxes)
    images = torch.arange(num_images, device=boxes.device)[:, None]
    filled = _have_area(boxes).flatten()
    # Padding gets a group past the last, of which `suppress` takes no notice.
    groups = (images * num_groups + groups).flatten().where(filled, num_images * num_groups)
    settings = num_images * num_groups, iou_threshold
    if boxes.device.type != "cpu":
        return suppress(boxes.flatten(0, 1), scores.flatten(), groups, *settings).view_as(scores)
    rows = filled.nonzero()[:, 0]
    kept = suppress(boxes.flatten(0, 1)[rows], scores.flatten()[rows], groups[rows], *settings)
    return torch.ones_like(filled).index_copy_(0, rows, kept).view_as(scores)


suppress_operator = torch.library.custom_op("vertebra::suppress", _suppress_images, mutates_args=())


@suppress_operator.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def suppress_by_torchvision(
    boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float
) -> Tensor:
    """The same by torchvision's operator alone, for a graph that other programs load. The time of one call grows with
    the square of all boxes of the batch."""
    load_operators()
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    rows = (_have_area(boxes) & (scores > -torch.inf)).flatten().nonzero()[:, 0]
    # Groups side by side and images below each other, in double precision, in which no digit of a box is lost.
    far = boxes.amax().double() + 1
    column, row = (values.expand_as(scores).flatten()[rows].double() for values in (groups, images))
    place = torch.stack((column, row), dim=1).repeat(1, 2) * far
    kept = torch.ops.torchvision.nms(
        boxes.flatten(0, 1)[rows].double() + place, scores.flatten()[rows].double(), iou_threshold
    )
    none = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return none.index_fill(0, rows[kept], True).view(scores.shape)


def _have_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, iou_threshold: float) -> Tensor:
    """Which boxes (M,) no better box of the same group overlaps by more than `iou_threshold`.

    `boxes` (M, 4), not negative, with `scores` (M,); `groups` (M,) int64 in 0 … N - 1, in any order. Boxes without
    area suppress nothing and are not suppressed, nor are those of a group N. Of equal scores the first is the better.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    kernels = kernels_for(boxes.device)
    if kernels is not None:
        starts = torch.searchsorted(groups[order], torch.arange(num_groups + 1, device=boxes.device))
        kept = kernels.suppress_sorted(boxes[order], starts, iou_threshold)
        return torch.empty_like(kept).index_copy_(0, order, kept)
    sizes = torch.bincount(groups, minlength=num_groups).tolist()[:num_groups]
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    on_cpu = boxes.device.type == "cpu"
    start = 0
    for run in _runs(sizes, _MOST_BOXES_A_CALL_ON_A_CPU if on_cpu else _MOST_BOXES_A_CALL):
        rows = order[start : start + sum(run)]
        start += sum(run)
        if max(run) > 1:
            keep[rows] = False
            placed = _apart(boxes[rows], run)
            keep[rows[nms(placed, scores[rows].to(placed.dtype), iou_threshold)]] = True
    return keep


def _runs(sizes: list[int], most: int) -> list[list[int]]:
    """`sizes` but those of 0 cut into runs of at most `most` boxes, or one group."""
    runs: list[list[int]] = [[]]
    total = 0
    for size in filter(None, sizes):
        if runs[-1] and total + size > most:
            runs.append([])
            total = 0
        runs[-1].append(size)
        total += size
    return runs if runs[-1] else []


def _apart(boxes: Tensor, sizes: list[int]) -> Tensor:
    """The boxes of each group shifted to a place of its own: in a square rather than a row, and in double precision,
    because far from 0 float32 has too few digits left for overlaps."""
    if len(sizes) == 1:
        return boxes
    counts = torch.tensor(sizes, device=boxes.device)
    group = torch.arange(len(sizes), device=boxes.device).repeat_interleave(counts, output_size=len(boxes))
    side = math.isqrt(len(sizes)) + 1
    places = torch.stack((group % side, group // side), dim=1).repeat(1, 2)
    return boxes.double() + places * (boxes.amax().double() + 1)
