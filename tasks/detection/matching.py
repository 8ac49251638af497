"""Which object each anchor or proposal stands for, by overlap, for all images of a batch at once.

Legend:
    B  images     A  anchors, or proposals of each image     G  rows of objects, padding included
    matches  int64 (B, A): the row of the object, or BACKGROUND, or IGNORED
"""

import torch
from torch import Tensor

BACKGROUND = -1
IGNORED = -2

# Entries of the overlap matrix alive at a time. On a CPU they should stay in the cache; on a GPU each
# round costs a dozen launches, so rounds should be few.
_CHUNK_CPU = 2**17
_CHUNK_GPU = 2**25


def trainable(boxes: Tensor, labels: Tensor, is_crowd: Tensor) -> Tensor:
    """Which rows (B, G) are objects to learn from: neither padding nor crowd nor without area."""
    return (labels >= 0) & ~is_crowd & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


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
    num_images, num_objects = gt_valid.shape
    corners = boxes.mT.contiguous().unbind(-2)
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
    shape = (num_images, boxes.shape[-2])
    best = boxes.new_zeros(shape)
    matches = torch.zeros(shape, dtype=torch.int64, device=boxes.device)
    forced = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    # Rows that do not count become empty boxes, which overlap nothing.
    gt_boxes = gt_boxes * gt_valid[..., None]
    rows = rows_at_a_time(best.numel(), boxes.device)
    for start in range(0, num_objects, rows):
        overlap = overlaps(corners, area, gt_boxes[:, start : start + rows])  # (B, rows, A)
        if low_quality:
            highest = overlap.amax(dim=2, keepdim=True)
            forced |= ((overlap == highest) & (highest > 0)).any(dim=1)
        value, index = overlap.max(dim=1)
        better = value > best
        matches = torch.where(better, index + start, matches)
        best = torch.where(better, value, best)
    unmatched = torch.where(best < background_iou, BACKGROUND, IGNORED)
    return torch.where((best >= foreground_iou) | forced, matches, unmatched)


def rows_at_a_time(entries: int, device: torch.device) -> int:
    """How many rows of so many entries of a matrix of overlaps to hold at a time; at least 1."""
    budget = _CHUNK_CPU if device.type == "cpu" else _CHUNK_GPU
    return max(1, budget // max(1, entries))


def take_matched(rows: Tensor, matches: Tensor, fill: float) -> Tensor:
    """For each of `matches` (B, A) the row of `rows` (B, G, ...) that it names; `fill` where it names none."""
    none = rows.new_full((len(rows), 1, *rows.shape[2:]), fill)
    index = torch.where(matches < 0, rows.shape[1], matches)
    image = torch.arange(len(rows), device=rows.device)[:, None]
    return torch.cat((rows, none), dim=1)[image, index]


def overlaps(corners: tuple[Tensor, ...], area: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU (B, rows, A) of boxes, given as four (A,) or (B, A), with objects (B, rows, 4); 0 for empty ones."""
    x1, y1, x2, y2 = (side.unsqueeze(-2) for side in corners)
    gx1, gy1, gx2, gy2 = gt_boxes[..., None].unbind(-2)
    width = (torch.minimum(x2, gx2) - torch.maximum(x1, gx1)).clamp_(min=0)
    shared = (torch.minimum(y2, gy2) - torch.maximum(y1, gy1)).clamp_(min=0).mul_(width)
    union = ((gx2 - gx1) * (gy2 - gy1) + area.unsqueeze(-2)).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))
