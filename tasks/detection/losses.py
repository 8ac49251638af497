"""Losses of detectors: of classes and of boxes, by name; padding and background are masked, not selected.

Those over samples are sums divided by the number of samples of the whole batch, all ranks' together, so they stay
connected to their inputs (with a gradient of zero) when nothing is left to sum. Computed in float32.

Legend:
    B  images     S  samples of each image     A  anchors of an image     N  boxes, each with its object
    K  classes; label K means background
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.distributed import LossSum

from .focal_loss import focal_losses, quality_focal_losses
from .overlap_losses import OVERLAP_LOSSES

ClassLoss = Literal["cross_entropy", "focal"]
"""Of a softmax."""
DenseClassLoss = Literal["cross_entropy", "focal", "quality_focal"]
"""Of sigmoids."""
BoxLoss = Literal["l1", "smooth_l1", "iou", "giou", "diou", "ciou"]

_BETA = 1 / 9  # where smooth L1 turns linear: Detectron's sigma = 3
_GAMMA = 2.0  # Focal Loss, section 4.1; torchvision's default too


def check_loss(option: str, loss: str, kinds: Any) -> None:
    """Raises `ValueError` for a `loss` that is not one of the Literal `kinds`; `option` is what the user calls it."""
    if loss not in get_args(kinds):
        raise ValueError(f"model.{option}={loss} is unknown; wanted one of {', '.join(get_args(kinds))}")


def objectness_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> LossSum:
    """Binary cross-entropy of `logits` (B, S) with `positive` (B, S), averaged over `valid` (B, S)."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), reduction="none")
    return LossSum((losses * valid).sum(), valid.sum())


def class_loss(logits: Tensor, labels: Tensor, valid: Tensor, kind: ClassLoss = "cross_entropy") -> LossSum:
    """Loss of the softmax of `logits` (B, S, K + 1) for `labels` (B, S) in 0 … K, averaged over `valid` (B, S).

    "focal" is cross-entropy times (1 - p)² for the probability p of the label.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    if kind == "focal":
        losses = losses * (1 - torch.exp(-losses)) ** _GAMMA
    return LossSum((losses * valid.flatten()).sum(), valid.sum())


def dense_class_losses(
    logits: Tensor, labels: Tensor, kind: DenseClassLoss, quality: Tensor | None = None
) -> Tensor:
    """Losses (...) of the sigmoids of `logits` (..., K) for `labels` (...) in 0 … K, summed over classes.

    The label's class shall reach `quality` (...) in 0 … 1, or 1 without it, all others 0.
    """
    if kind == "focal" and quality is None:
        return focal_losses(logits, labels)
    if kind == "quality_focal":
        quality = torch.ones(labels.shape, device=logits.device) if quality is None else quality
        return quality_focal_losses(logits, labels, quality)
    logits = logits.float()
    shape = (*labels.shape, logits.shape[-1] + 1)
    targets = torch.zeros(shape, device=logits.device).scatter_(-1, labels[..., None], 1)[..., :-1]
    if quality is not None:
        targets = targets * quality[..., None]
    if kind == "focal":
        from torchvision.ops import sigmoid_focal_loss  # here, as importing torchvision takes seconds

        return sigmoid_focal_loss(logits, targets, gamma=_GAMMA).sum(dim=-1)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=-1)


def box_losses(
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Tensor,
    kind: BoxLoss,
    *,
    encode: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Losses (N,) of the boxes that `deltas` (N, 4) make of `anchors` (N, 4), for objects `gt_boxes` (N, 4).

    L1 and its smooth kin compare deltas, the others compare boxes.
    """
    if kind in OVERLAP_LOSSES:
        return OVERLAP_LOSSES[kind](decode(deltas, anchors), gt_boxes)
    return l1(deltas, encode(gt_boxes, anchors), kind)


def sampled_box_loss(
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Tensor,
    positive: Tensor,
    num_samples: Tensor,
    kind: BoxLoss,
    *,
    encode: Callable[[Tensor, Tensor], Tensor],
    decode: Callable[[Tensor, Tensor], Tensor],
) -> LossSum:
    """`box_losses` of `deltas`, `anchors` and `gt_boxes`, all (B, S, 4), summed over `positive` (B, S).

    Divided by `num_samples`, all samples and not the positives alone (Fast R-CNN, section 2.3, equation 1).
    What anchors and objects hold elsewhere is not read.
    """
    # The box (0, 0, 1, 1): one without area would give NaN, even times zero.
    place = (torch.arange(4, device=anchors.device) > 1).to(anchors.dtype)
    anchors, gt_boxes = (rows.where(positive[..., None], place) for rows in (anchors, gt_boxes))
    deltas = deltas.where(positive[..., None], 0)
    losses = box_losses(deltas, anchors, gt_boxes, kind, encode=encode, decode=decode)
    return LossSum((losses * positive).sum(), num_samples)


def l1(deltas: Tensor, targets: Tensor, kind: BoxLoss) -> Tensor:
    """L1 or smooth L1 (...) between `deltas` and `targets` (..., 4), summed over the four."""
    beta = _BETA if kind == "smooth_l1" else 0.0
    return F.smooth_l1_loss(deltas.float(), targets, beta=beta, reduction="none").sum(dim=-1)
