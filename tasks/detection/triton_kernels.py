"""Kernels of detection for CUDA, each the work of dozens of operators in one pass over its input.

Imported where a tensor lies on a CUDA device and Triton, which comes with torch there, can be had. Everything here
has a plain equivalent in `suppression.py` and `matching.py`, to which tests hold it (on a CPU by Triton's interpreter).

Legend:
    M  boxes of all groups     N  groups     B  images     A  anchors, or proposals of each image     G  objects
    R  anchors of all images     K  classes; label K means background
"""

# pyright: basic, reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
import torch
import triton
import triton.language as tl
from torch import Tensor

_SUPPRESSION_BLOCK = 64  # boxes compared with as many others at a time; 4,096 overlaps fit into registers
_MATCHING_BLOCK = 512  # anchors a program


@triton.jit
def _load_boxes(boxes, rows, inside):
    """The four sides of boxes; empty where not `inside`."""
    x1 = tl.load(boxes + rows * 4, mask=inside, other=0.0)
    y1 = tl.load(boxes + rows * 4 + 1, mask=inside, other=0.0)
    x2 = tl.load(boxes + rows * 4 + 2, mask=inside, other=0.0)
    y2 = tl.load(boxes + rows * 4 + 3, mask=inside, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _overlaps(x1, y1, x2, y2, u1, v1, u2, v2):
    """IoU of each of the first boxes (rows) with each of the second (columns); NaN for two empty ones."""
    width = tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :])
    height = tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :])
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    areas = ((x2 - x1) * (y2 - y1))[:, None] + ((u2 - u1) * (v2 - v1))[None, :]
    return shared / (areas - shared)


@triton.jit
def _suppress(boxes, starts, keep, threshold, BLOCK: tl.constexpr):
    """One group: `BLOCK` boxes decide among themselves, then drop later ones, block by block."""
    group = tl.program_id(0)
    begin = tl.load(starts + group)
    end = tl.load(starts + group + 1)
    lane = tl.arange(0, BLOCK)
    for start in range(begin, end, BLOCK):
        row = start + lane
        inside = row < end
        x1, y1, x2, y2 = _load_boxes(boxes, row, inside)
        waiting = tl.load(keep + row, mask=inside, other=0)
        over = _overlaps(x1, y1, x2, y2, x1, y1, x2, y2) > threshold
        drops = (over & (lane[:, None] < lane[None, :])).to(tl.int32)
        # A box stays if no better one that stays overlaps it: the first is settled, then those that depend on it ...
        stays = waiting
        unsettled = 1
        while unsettled > 0:
            after = waiting * (1 - tl.max(drops * stays[:, None], axis=0))
            unsettled = tl.sum(tl.where(after != stays, 1, 0), axis=0)
            stays = after
        tl.store(keep + row, stays, mask=inside)
        for other in range(start + BLOCK, end, BLOCK):
            column = other + lane
            within = column < end
            u1, v1, u2, v2 = _load_boxes(boxes, column, within)
            over = _overlaps(x1, y1, x2, y2, u1, v1, u2, v2) > threshold
            dropped = tl.max(over.to(tl.int32) * stays[:, None], axis=0)
            left = tl.load(keep + column, mask=within, other=0)
            tl.store(keep + column, left * (1 - dropped), mask=within)
        tl.debug_barrier()  # what one thread has stored another one loads next


def suppress_sorted(boxes: Tensor, starts: Tensor, iou_threshold: float) -> Tensor:
    """Which of `boxes` (M, 4), best first within each group, no better one of its group overlaps by more than
    `iou_threshold`: bool (M,). `starts` (N + 1,) int64 says where each group begins, and where the last one ends."""
    boxes = boxes.float().contiguous()
    keep = torch.ones(len(boxes), dtype=torch.int32, device=boxes.device)
    groups = len(starts) - 1
    if groups and len(boxes):
        _suppress[(groups,)](boxes, starts, keep, iou_threshold, BLOCK=_SUPPRESSION_BLOCK)
    return keep.bool()


@triton.jit
def _overlap_with_object(objects, valid, x1, y1, x2, y2, area, image, g, num_objects):
    """IoU of boxes with object `g` of `image`, 0 for what does not count or is empty."""
    place = image * num_objects + g
    counts = tl.load(valid + place).to(tl.float32)
    u1 = tl.load(objects + place * 4) * counts
    v1 = tl.load(objects + place * 4 + 1) * counts
    u2 = tl.load(objects + place * 4 + 2) * counts
    v2 = tl.load(objects + place * 4 + 3) * counts
    width = tl.minimum(x2, u2) - tl.maximum(x1, u1)
    height = tl.minimum(y2, v2) - tl.maximum(y1, v1)
    shared = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    union = area + (u2 - u1) * (v2 - v1) - shared
    return shared / tl.maximum(union, 1.1754943508222875e-38)


@triton.jit
def _best_overlaps(
    boxes, box_stride, objects, valid, best, row, highest, num_boxes, num_objects, BLOCK: tl.constexpr
):
    """The highest overlap of each box with any object, which that is, and the highest of each object."""
    image = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_boxes
    x1, y1, x2, y2 = _load_boxes(boxes + image * box_stride, column, inside)
    area = (x2 - x1) * (y2 - y1)
    most = tl.zeros((BLOCK,), tl.float32)
    which = tl.zeros((BLOCK,), tl.int64)
    for g in range(num_objects):
        overlap = _overlap_with_object(objects, valid, x1, y1, x2, y2, area, image, g, num_objects)
        overlap = tl.where(inside, overlap, 0.0)
        which = tl.where(overlap > most, g, which)
        most = tl.maximum(most, overlap)
        top = tl.max(overlap, axis=0)
        if top > 0:
            tl.atomic_max(highest + image * num_objects + g, top)
    tl.store(best + image * num_boxes + column, most, mask=inside)
    tl.store(row + image * num_boxes + column, which, mask=inside)


@triton.jit
def _as_good_as_any(
    boxes, box_stride, objects, valid, highest, found, num_boxes, num_objects, BLOCK: tl.constexpr
):
    """Which boxes overlap some object as much as any box does."""
    image = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_boxes
    x1, y1, x2, y2 = _load_boxes(boxes + image * box_stride, column, inside)
    area = (x2 - x1) * (y2 - y1)
    good = tl.zeros((BLOCK,), tl.int32)
    for g in range(num_objects):
        overlap = _overlap_with_object(objects, valid, x1, y1, x2, y2, area, image, g, num_objects)
        top = tl.load(highest + image * num_objects + g)
        good = tl.where((overlap == top) & (overlap > 0), 1, good)
    tl.store(found + image * num_boxes + column, good, mask=inside)


def best_overlaps(
    boxes: Tensor, gt_boxes: Tensor, gt_valid: Tensor, *, ties: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of `boxes` (A, 4) or (B, A, 4): the highest overlap (B, A) with any of `gt_boxes` (B, G, 4) that are
    `gt_valid` (B, G), and its row (B, A), the first of equal ones; with `ties` also which boxes (B, A) overlap some
    object as much as any box does."""
    num_images, num_objects = gt_valid.shape
    num_boxes = boxes.shape[-2]
    boxes, objects = boxes.float().contiguous(), gt_boxes.float().contiguous()
    stride = 0 if boxes.dim() == 2 else num_boxes * 4
    valid = gt_valid.to(torch.int8).contiguous()
    best = torch.empty(num_images, num_boxes, device=boxes.device)
    row = torch.empty(num_images, num_boxes, dtype=torch.int64, device=boxes.device)
    highest = torch.zeros(num_images, num_objects, device=boxes.device)
    grid = triton.cdiv(num_boxes, _MATCHING_BLOCK), num_images
    sizes = num_boxes, num_objects
    _best_overlaps[grid](boxes, stride, objects, valid, best, row, highest, *sizes, BLOCK=_MATCHING_BLOCK)
    if not ties:
        return best, row, None
    found = torch.empty(num_images, num_boxes, dtype=torch.int32, device=boxes.device)
    _as_good_as_any[grid](boxes, stride, objects, valid, highest, found, *sizes, BLOCK=_MATCHING_BLOCK)
    return best, row, found.bool()


@triton.jit
def _focal(
    logits, labels, losses, slopes, rows, K: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    ALPHA: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Focal losses of some rows, summed over classes, and their derivatives."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    within = row < rows
    label = tl.load(labels + row, mask=within, other=K)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, K, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = within[:, None] & (column < K)[None, :]
        place = row.to(tl.int64)[:, None] * K + column[None, :]
        x = tl.load(logits + place, mask=inside, other=0.0).to(tl.float32)
        is_label = label[:, None] == column[None, :]
        z = tl.where(is_label, -x, x)  # the object's class is background seen from the other side
        weight = tl.where(is_label, ALPHA, 1.0 - ALPHA)
        small = tl.exp(-tl.abs(z))
        p = tl.where(z >= 0, 1.0, small) / (1.0 + small)
        log = tl.maximum(z, 0.0) + tl.log(1.0 + small)  # softplus
        total += tl.sum(tl.where(inside, weight * p * p * log, 0.0), axis=1)
        if KEEP:
            slope = weight * p * p * (2.0 * (1.0 - p) * log + p)
            slope = tl.where(is_label, -slope, slope)
            tl.store(slopes + place, slope.to(slopes.dtype.element_ty), mask=inside)
    tl.store(losses + row, total, mask=within)


def focal_losses(logits: Tensor, labels: Tensor, alpha: float, slopes: Tensor | None) -> Tensor:
    """Losses (R,) float32 of the sigmoids of `logits` (R, K) for `labels` (R,) in 0 … K, exponent 2, summed over
    classes; their derivatives go into `slopes` (R, K)."""
    rows, classes = logits.shape
    losses = torch.empty(rows, device=logits.device)
    columns = min(128, triton.next_power_of_2(classes))
    block = max(1, 4096 // columns)
    if logits.numel():
        _focal[(triton.cdiv(rows, block),)](
            logits.contiguous(), labels, losses, logits if slopes is None else slopes, rows, K=classes,
            COLUMNS=columns, ROWS=block, ALPHA=alpha, KEEP=slopes is not None,
        )  # fmt: skip
    return losses
