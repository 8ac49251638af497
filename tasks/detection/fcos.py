"""FCOS on any backbone with a pyramid: `fcos` builds it, `FCOS` is the network.

FCOS: Fully Convolutional One-Stage Object Detection (Tian et al., 2019), with what its extended version (A
Simple and Strong Anchor-Free Object Detector, 2020) adds: centre sampling, centre-ness beside the boxes, GIoU.
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

from .boxes import decode_distances, encode_distances
from .dense_detector import AnchorGrid, DenseDetectionSettings, DenseDetector
from .dense_head import DenseHead, DensePredictions
from .losses import BoxLoss, DenseClassLoss, dense_class_losses
from .matching import take_matched, valid_targets
from .point_matching import centerness, match_points
from .pyramid import P3_TO_P7, detector_pyramid


@dataclass(frozen=True, kw_only=True)
class FCOSSettings(DenseDetectionSettings):
    """Settings of an FCOS. Defaults are torchvision's, so that its weights act as they did there. Scores are the
    geometric mean of class and centre-ness."""

    center_radius: float = 1.5
    """Points this many strides around an object's centre stand for it."""
    head_layers: int = 4
    """Convolutions of each of the two towers of the head."""
    head_norm: str | None = "group"
    """Norm after each of them, or None."""
    class_loss: DenseClassLoss = "focal"
    box_loss: BoxLoss = "giou"
    score_threshold: float = 0.2
    nms_threshold: float = 0.6


def fcos(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: FCOSSettings = FCOSSettings(),
) -> "FCOS":
    """An FCOS from plain values: the arguments of `retinanet`, which raises the same."""
    extractor, channels, strides = detector_pyramid("fcos", backbone, pyramid, P3_TO_P7)
    head = DenseHead(
        channels,
        num_classes=num_classes,
        layers=settings.head_layers,
        norm=settings.head_norm,
        bias=True,
        with_quality=True,
    )
    # Boxes of two strides to begin with: at 0, where half of the sides would be, neither ReLU nor overlap has a
    # gradient, and on small objects none of them may ever leave.
    assert head.deltas.bias is not None
    nn.init.ones_(head.deltas.bias)
    return FCOS(extractor, [head], Preprocessing.of(preprocessing), AnchorGrid(strides), settings)


class FCOS(DenseDetector[FCOSSettings]):
    """The network. Its losses are sums over the points of the batch, divided by those that stand for an object."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return encode_distances(boxes, anchors)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return decode_distances(deltas, anchors)

    def scores(self, found: DensePredictions) -> Tensor:
        assert found.quality is not None
        return (found.logits.float().sigmoid() * found.quality.float().sigmoid()[..., None]).sqrt()

    def features(self, batch: Batch) -> DensePredictions:
        found = super().features(batch)
        return found._replace(deltas=found.deltas.relu())  # a point lies inside its box

    def losses(self, features: DensePredictions, batch: Batch) -> dict[str, Tensor]:
        found = features
        assert found.quality is not None
        with torch.no_grad():
            matches = match_points(
                found.anchors,
                found.level_sizes,
                batch.boxes,
                valid_targets(batch.boxes, batch.labels, batch.is_crowd),
                radius=self.settings.center_radius,
            )
            labels = take_matched(batch.labels, matches, self.num_classes)
            images, indices = (matches >= 0).nonzero().unbind(1)  # the one wait for the device
            points, gt_boxes = found.anchors[indices], batch.boxes[images, matches[images, indices]]
            centers = centerness(gt_boxes, points)
        boxes = self.box_losses(found.deltas[images, indices], points, gt_boxes)
        quality = F.binary_cross_entropy_with_logits(
            found.quality[images, indices].float(), centers, reduction="sum"
        )
        count = loss_normalizer((matches >= 0).sum())
        return {
            "loss_class": dense_class_losses(found.logits, labels, self.class_loss).sum() / count,
            "loss_box": boxes.sum() / count,
            "loss_centerness": quality / count,
        }
