"""Losses of boxes by their overlap: IoU and what adds to it where boxes do not overlap, or only just.

The values of torchvision's functions, whose masks make a GPU wait; none here does. Boxes are float32 (..., 4) xyxy
in pixels, each with its object in the same place, and a loss is (...).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_EPSILON = 1e-7  # torchvision's: keeps divisors above 0
_MIN_SIDE = 1e-3  # pixels


def iou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """1 - IoU."""
    start = torch.maximum(boxes[..., :2], gt_boxes[..., :2])
    end = torch.minimum(boxes[..., 2:], gt_boxes[..., 2:])
    shared = (end - start).clamp(min=0).prod(dim=-1)
    area, gt_area = ((rows[..., 2:] - rows[..., :2]).prod(dim=-1) for rows in (boxes, gt_boxes))
    return 1 - shared / (area + gt_area - shared).clamp(min=torch.finfo(shared.dtype).tiny)


def giou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """1 - GIoU, which takes off the share of the box around both that neither covers (Rezatofighi et al., 2019)."""
    shared, union = _shared_and_union(boxes, gt_boxes)
    width, height = _around(boxes, gt_boxes)
    area = width * height
    return 1 - (shared / (union + _EPSILON) - (area - union) / (area + _EPSILON))


def diou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """1 - DIoU, which takes off the squared distance of the centres, in units of the diagonal of the box around both
    (Zheng et al., 2020)."""
    return _diou(boxes, gt_boxes)[0]


def ciou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """1 - CIoU, which takes off from DIoU what the ratios of the sides differ by (Zheng et al., 2020)."""
    # The ratio of sides of a box without area, as FCOS may give it, would be NaN.
    end = boxes[..., 2:].maximum(boxes[..., :2].detach() + _MIN_SIDE)
    boxes = torch.cat((boxes[..., :2], end), dim=-1)
    diou, iou = _diou(boxes, gt_boxes)
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=-1)
    gt_width, gt_height = (gt_boxes[..., 2:] - gt_boxes[..., :2]).unbind(dim=-1)
    ratios = (4 / math.pi**2) * (torch.atan(gt_width / gt_height) - torch.atan(width / height)).pow(2)
    with torch.no_grad():
        weight = ratios / (1 - iou + ratios + _EPSILON)
    return diou + weight * ratios


def _diou(boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """1 - DIoU, and IoU."""
    shared, union = _shared_and_union(boxes, gt_boxes)
    iou = shared / (union + _EPSILON)
    width, height = _around(boxes, gt_boxes)
    diagonal = width**2 + height**2 + _EPSILON
    shift = (boxes[..., 2:] + boxes[..., :2]) / 2 - (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2
    x, y = shift.unbind(dim=-1)
    return 1 - iou + (x**2 + y**2) / diagonal, iou


def _shared_and_union(boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    gt_x1, gt_y1, gt_x2, gt_y2 = gt_boxes.unbind(dim=-1)
    left, top = torch.maximum(x1, gt_x1), torch.maximum(y1, gt_y1)
    right, bottom = torch.minimum(x2, gt_x2), torch.minimum(y2, gt_y2)
    # Not by `clamp`, which would pass a gradient on to boxes that only touch.
    shared = ((right - left) * (bottom - top)).where((bottom > top) & (right > left), 0)
    return shared, (x2 - x1) * (y2 - y1) + (gt_x2 - gt_x1) * (gt_y2 - gt_y1) - shared


def _around(boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    start = torch.minimum(boxes[..., :2], gt_boxes[..., :2])
    end = torch.maximum(boxes[..., 2:], gt_boxes[..., 2:])
    width, height = (end - start).unbind(dim=-1)
    return width, height


OVERLAP_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}
