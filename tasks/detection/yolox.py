"""YOLOX on any backbone with a pyramid: `yolox` builds it, `YOLOX` is the network.

YOLOX: Exceeding YOLO Series in 2021 (Ge et al., 2021), section 2.1: a decoupled head for each level, one point a
cell instead of anchors, SimOTA. The backbone is any of ours in place of the paper's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.contracts import Batch
from tasks.distributed import loss_normalizer
from tasks.preprocessing import Preprocessing

from .dense_detector import AnchorGrid, DenseDetectionSettings, DenseDetector
from .dense_head import PRIOR_LOGIT, DenseHead, DensePredictions
from .losses import BoxLoss, DenseClassLoss, dense_class_losses
from .matching import valid_targets
from .point_matching import assign_by_cost
from .pyramid import detector_pyramid

_WIDTH, _LAYERS = 256, 2  # of the head, before the multipliers
_BOX_WEIGHT = 5.0  # of the loss of boxes beside the others


@dataclass(frozen=True, kw_only=True)
class YOLOXSettings(DenseDetectionSettings):
    """Settings of a YOLOX. Scores are class times objectness."""

    width: float = 1.0
    """Times 256 are the channels of head and pyramid; the paper's sizes are 0.5 (S), 0.75 (M), 1 (L) and 1.25 (X),
    here with a backbone to match."""
    depth: float = 1.0
    """Times 2, rounded and at least 1, are the convolutions of each of the two towers of a head."""
    head_norm: str | None = "batch"
    """Norm after each of them, or None."""
    center_radius: float = 2.5
    """Points this many strides around an object's centre may stand for it."""
    class_loss: DenseClassLoss = "cross_entropy"
    box_loss: BoxLoss = "iou"
    score_threshold: float = 0.01
    nms_threshold: float = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.width > 0 and self.depth > 0):
            raise ValueError(
                f"model.width={self.width} and model.depth={self.depth} must be above 0 (0.5 and 0.33 for a small one)"
            )


def yolox(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: YOLOXSettings = YOLOXSettings(),
) -> "YOLOX":
    """A YOLOX from plain values: the arguments of `retinanet`, which raises the same.

    The pyramid is a "pafpn" as in the paper unless another is named; what `pyramid` leaves open gives P3 to P5 with
    batch norm and as many channels as the head.
    """
    channels = max(8, round(_WIDTH * settings.width / 8) * 8)
    defaults = {"levels": ("c3", "c4", "c5"), "extra": "none", "norm": "batch", "channels": channels}
    pyramid = {"name": "pafpn", **(pyramid or {})}
    extractor, inputs, strides = detector_pyramid("yolox", backbone, pyramid, defaults)
    heads = [
        DenseHead(
            inputs,
            num_classes=num_classes,
            layers=max(1, round(_LAYERS * settings.depth)),
            width=channels,
            norm=settings.head_norm,
            activation=nn.SiLU,
            stem=True,
            kernel=1,
            with_quality=True,
        )
        for _ in strides
    ]
    for head in heads:
        assert head.quality is not None and head.quality.bias is not None
        nn.init.constant_(head.quality.bias, PRIOR_LOGIT)
    grid = AnchorGrid(strides, offset=0.5)
    return YOLOX(extractor, heads, Preprocessing.of(preprocessing), grid, settings)


class YOLOX(DenseDetector[YOLOXSettings]):
    """The network. Its losses are sums over the points of the batch, divided by those that stand for an object.

    Offsets are from the middle of the cell, where the paper's are from its corner: the same up to a constant.
    """

    with_l1: bool = False
    """Whether this is the end of the training, when L1 of the deltas is lost too (section 2.1). The task sets it."""

    def scores(self, found: DensePredictions) -> Tensor:
        assert found.quality is not None
        return found.logits.float().sigmoid() * found.quality.float().sigmoid()[..., None]

    def losses(self, features: DensePredictions, batch: Batch) -> dict[str, Tensor]:
        found = features
        assert found.quality is not None
        with torch.no_grad():
            matches, overlaps = assign_by_cost(
                found.anchors,
                self.decode(found.deltas, found.anchors),
                self.scores(found).sqrt(),
                batch.boxes,
                batch.labels,
                valid_targets(batch.boxes, batch.labels, batch.is_crowd),
                radius=self.settings.center_radius,
            )
            images, indices = (matches >= 0).nonzero().unbind(1)  # the one wait for the device
            rows = matches[images, indices]
            gt_boxes, labels = batch.boxes[images, rows], batch.labels[images, rows]
        anchors, deltas = found.anchors[indices], found.deltas[images, indices]
        count = loss_normalizer((matches >= 0).sum())

        def lost(kind: BoxLoss) -> Tensor:
            return self.box_losses(deltas, anchors, gt_boxes, kind).sum() / count

        objectness = F.binary_cross_entropy_with_logits(
            found.quality.float(), (matches >= 0).float(), reduction="sum"
        )
        classes = dense_class_losses(
            found.logits[images, indices], labels, self.class_loss, quality=overlaps[images, indices]
        )
        return {
            "loss_class": classes.sum() / count,
            "loss_box": _BOX_WEIGHT * lost(self.box_loss),
            "loss_objectness": objectness / count,
            **({"loss_l1": lost("l1")} if self.with_l1 else {}),
        }
