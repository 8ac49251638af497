"""Which object each anchor or proposal stands for, by overlap, for all images of a batch at once.

Legend:
    B  images     A  anchors, or proposals of each image     G  rows of objects, padding included
    matches  int64 (B, A): the row of the object, or BACKGROUND, or IGNORED
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from tasks.uncompiled import uncompiled

from .kernels import kernels_for

Assign = TypeVar("Assign", bound=Callable[..., tuple[Tensor, Tensor]])

BACKGROUND = -1
IGNORED = -2

# Overlaps alive at a time. On a CPU they should stay in the cache; on a GPU each block of them costs two dozen
# launches, so blocks should be few.
_BLOCK_CPU = 2**16
_BLOCK_GPU = 2**25


def valid_targets(boxes: Tensor, labels: Tensor, is_crowd: Tensor) -> Tensor:
    """Which rows (B, G) are objects to learn from: neither padding nor crowd nor without area."""
    return (labels >= 0) & ~is_crowd & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


@uncompiled
@torch.no_grad()
def match(
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    *,
    foreground_iou: float,
    background_iou: float,
    low_quality: bool = False,
) -> Tensor:
    """Matches (B, A) of `boxes` (A, 4) or (B, A, 4) with `gt_boxes` (B, G, 4), of which `gt_valid` (B, G) count.

    A box goes to the object that it overlaps most, if by at least `foreground_iou`; below
    `background_iou` it is BACKGROUND, between the two IGNORED. With `low_quality`, the boxes that overlap
    an object as much as any box does are matched in any case, each to the object that it overlaps most
    itself (Faster R-CNN, section 3.1.2, as Detectron does it). Without objects all is BACKGROUND.
    """
    # Rows that do not count become empty boxes, which overlap nothing.
    gt_boxes = gt_boxes * gt_valid[..., None]
    if not gt_boxes.shape[1]:
        return torch.full((len(gt_boxes), boxes.shape[-2]), BACKGROUND, device=boxes.device)
    kernels = kernels_for(boxes.device)
    if kernels is not None:
        best, row, as_good = kernels.best_overlaps(boxes, gt_boxes, gt_valid, ties=low_quality)
        matched = best >= foreground_iou
        if as_good is not None:
            matched |= as_good
        return row.where(matched, torch.where(best < background_iou, BACKGROUND, IGNORED))
    boxes = boxes.expand(len(gt_boxes), -1, 4)
    budget = block_size(boxes.device)
    best, highest = _highest_overlaps(boxes, gt_boxes, budget)
    unmatched = torch.where(best < background_iou, BACKGROUND, IGNORED)
    # Which object a box overlaps most takes long to find out, and matters for few boxes.
    least = best.new_full((len(best),), foreground_iou)
    if low_quality:
        least = least.minimum(highest.where(highest > 0, torch.inf).amin(dim=1))
    image, column = (best >= least[:, None]).nonzero(as_tuple=True)
    rows = rows_at_a_time(gt_boxes.shape[1], boxes.device)
    for some_images, some in zip(image.split(rows), column.split(rows), strict=True):
        objects = gt_boxes[some_images]
        overlap = _overlap(boxes[some_images, some, None], objects, boxes.new_empty(3, *objects.shape[:2]))
        value, row = overlap.max(dim=1)
        is_matched = value >= foreground_iou
        if low_quality:
            most = highest[some_images]
            is_matched |= ((overlap == most) & (most > 0)).any(dim=1)
        unmatched[some_images, some] = torch.where(is_matched, row, unmatched[some_images, some])
    return unmatched


def rows_at_a_time(entries: int, device: torch.device) -> int:
    """How many rows of so many entries of a matrix of overlaps to hold at a time; at least 1."""
    return max(1, block_size(device) // max(1, entries))


def block_size(device: torch.device) -> int:
    """Overlaps to have alive at a time on this device."""
    return _BLOCK_CPU if device.type == "cpu" else _BLOCK_GPU


def few_images_at_a_time(assign: Assign) -> Assign:
    """Decorator of what finds matches (B, A), and a value (B, A) of each, for anchors (A, 4) that predict boxes
    (B, A, 4) and scores (B, A, K), with columns (B, G, …) of objects, through matrices (B, G, A).

    It gets these arguments of as many images at once as memory is meant for. Without objects all is BACKGROUND of
    value 0.
    """

    @wraps(assign)
    def of_all(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        anchors, boxes, *others = arguments
        num_objects = others[-1].shape[1]
        matches = torch.full(boxes.shape[:2], BACKGROUND, device=boxes.device)
        values = torch.zeros(boxes.shape[:2], device=boxes.device)
        if num_objects:
            images = rows_at_a_time(num_objects * len(anchors), anchors.device)
            for start in range(0, len(boxes), images):
                part = slice(start, start + images)
                of_part = (rows[part] for rows in (boxes, *others))
                matches[part], values[part] = assign(anchors, *of_part, **options)
        return matches, values

    return cast(Assign, of_all)


def take_matched(rows: Tensor, matches: Tensor, fill: float) -> Tensor:
    """For each of `matches` (B, A) the row of `rows` (B, G, ...) that it names; `fill` where it names none."""
    none = rows.new_full((len(rows), 1, *rows.shape[2:]), fill)
    index = torch.where(matches < 0, rows.shape[1], matches)
    image = torch.arange(len(rows), device=rows.device)[:, None]
    return torch.cat((rows, none), dim=1)[image, index]


def overlaps(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU (B, G, A) of `boxes` (B, A, 4) with objects `gt_boxes` (B, G, 4), all of them at once; 0 for empty ones."""
    memory = boxes.new_empty(3, *gt_boxes.shape[:2], boxes.shape[1])
    return _overlap(boxes.mT.contiguous().mT[:, None], gt_boxes[:, :, None], memory)


def _highest_overlaps(boxes: Tensor, gt_boxes: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """The highest IoU of each box (B, A) with any object and of each object (B, G) with any box, without the
    whole matrix of them: for a block of boxes at a time, in the same memory."""
    num_images, num_objects = gt_boxes.shape[:2]
    best = boxes.new_zeros(boxes.shape[:2])
    highest = boxes.new_zeros(num_images, num_objects)
    columns = max(1, budget // (num_images * num_objects))
    memory = boxes.new_empty(3, num_images, num_objects, min(columns, boxes.shape[1]))
    for some, some_best in zip(boxes.split(columns, dim=1), best.split(columns, dim=1), strict=True):
        sides = some.mT.contiguous().mT  # each of the four in a row
        overlap = _overlap(sides[:, None], gt_boxes[:, :, None], memory[..., : some.shape[1]])
        some_best.copy_(overlap.amax(dim=1))
        highest = torch.maximum(highest, overlap.amax(dim=2))
    return best, highest


def _overlap(boxes: Tensor, others: Tensor, memory: Tensor) -> Tensor:
    """IoU of `boxes` with `others`, broadcast; 0 for empty ones. Lies in `memory` (3, …), which is overwritten:
    fresh memory for every step would take several times as long as the arithmetic."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    ox1, oy1, ox2, oy2 = others.unbind(-1)
    shared, height, other = memory.unbind(0)
    torch.minimum(x2, ox2, out=shared).sub_(torch.maximum(x1, ox1, out=other)).clamp_(min=0)
    torch.minimum(y2, oy2, out=height).sub_(torch.maximum(y1, oy1, out=other)).clamp_(min=0)
    shared.mul_(height)
    union = torch.add((x2 - x1) * (y2 - y1), (ox2 - ox1) * (oy2 - oy1), out=height).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))
