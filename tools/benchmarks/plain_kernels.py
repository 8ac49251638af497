"""What the kernels of `tasks/detection/triton_kernels.py` compute, in plain operators."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms, sigmoid_focal_loss


def suppress_sorted(boxes: Tensor, starts: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes (M,) stay, of groups that begin at `starts` (N + 1,)."""
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for start, end in pairwise(starts.tolist()):
        falling = torch.arange(end - start, 0, -1).float()
        keep[start:end][nms(boxes[start:end], falling, iou_threshold)] = True
    return keep


def best_overlaps(
    boxes: Tensor, gt_boxes: Tensor, gt_valid: Tensor, *, ties: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The highest overlaps (B, A), their rows, and which boxes overlap an object as much as any does."""
    objects = gt_boxes * gt_valid[..., None]
    boxes = boxes.expand(len(objects), -1, 4)
    overlap = torch.stack([box_iou(*pair) for pair in zip(objects, boxes, strict=True)]).nan_to_num(0)
    best, row = overlap.max(dim=1)
    most = overlap.amax(dim=2, keepdim=True)
    return best, row, ((overlap == most) & (most > 0)).any(dim=1) if ties else None


def focal_losses(logits: Tensor, labels: Tensor, alpha: float, slopes: Tensor | None) -> Tensor:
    """Losses (R,), and their derivatives in `slopes` (R, K)."""
    targets = torch.nn.functional.one_hot(labels, logits.shape[1] + 1)[:, :-1].float()
    with torch.enable_grad():
        values = logits.detach().float().requires_grad_()
        losses = sigmoid_focal_loss(values, targets, alpha).sum(dim=1)
        (derivative,) = torch.autograd.grad(losses.sum(), values)
    if slopes is not None:
        slopes.copy_(derivative)
    return losses.detach()
