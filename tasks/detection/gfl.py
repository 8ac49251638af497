"""GFL on any backbone with a pyramid: `gfl` builds it, `GFL` is the network.

Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection (Li et al., 2020),
on the selection of ATSS (Zhang et al., 2020) or that of TOOD (Feng et al., 2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from backbones.checks import check_choice
from tasks.contracts import Batch
from tasks.distributed import LossSum, normalized
from tasks.preprocessing import Preprocessing

from .atss import match_adaptively
from .boxes import decode_distances, encode_distances
from .dense_detector import AnchorGrid, DenseDetectionSettings, DenseDetector
from .dense_head import DenseHead, DensePredictions
from .distributions import distribution_focal_losses, expected_distances
from .losses import BoxLoss, DenseClassLoss, box_losses, dense_class_losses
from .matching import take_matched, valid_targets
from .overlap_losses import iou_loss
from .pyramid import P3_TO_P7, detector_pyramid
from .task_alignment import assign_by_alignment

_ANCHOR_STRIDES = 8  # side of the one anchor of a cell (ATSS, section 4.3)
_NUM_DISTANCES = 17  # 0 … 16 strides (GFL, section 4)
_BOX_WEIGHT, _DISTRIBUTION_WEIGHT = 2.0, 0.25  # beside the loss of classes (equation 9)


@dataclass(frozen=True, kw_only=True)
class GFLSettings(DenseDetectionSettings):
    """Settings of a GFL. Scores of classes say how well the box fits, too."""

    assignment: Literal["atss", "task_aligned"] = "atss"
    """Which anchors stand for an object: by their place ("atss"), or by what is predicted there ("task_aligned")."""
    head_layers: int = 4
    """Convolutions of each of the two towers of the head."""
    head_norm: str | None = "group"
    """Norm after each of them, or None."""
    class_loss: DenseClassLoss = "quality_focal"
    box_loss: BoxLoss = "giou"
    nms_threshold: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.assignment", self.assignment, ("atss", "task_aligned"))


def gfl(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: GFLSettings = GFLSettings(),
) -> "GFL":
    """A GFL from plain values: the arguments of `retinanet`, which raises the same."""
    extractor, channels, strides = detector_pyramid("gfl", backbone, pyramid, P3_TO_P7)
    head = DenseHead(
        channels,
        num_classes=num_classes,
        layers=settings.head_layers,
        norm=settings.head_norm,
        box_outputs=4 * _NUM_DISTANCES,
    )
    grid = AnchorGrid([_ANCHOR_STRIDES * stride for stride in strides], offset=0.5)
    return GFL(extractor, [head], Preprocessing.of(preprocessing), grid, settings)


class GFL(DenseDetector[GFLSettings]):
    """The network. What it says of a box are logits of the distances of its four sides, in strides.

    The loss of classes is a sum over the anchors of the batch, divided by those that stand for an object; those of
    boxes are means over these, weighted by how well an anchor knows its object.
    """

    is_warming_up: bool = False
    """Whether this is the beginning of the training, when anchors stand for objects by ATSS and classes have focal loss
    whatever the assignment (TOOD, section 4.1): before boxes overlap objects, nothing is aligned. The task sets it."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return encode_distances(boxes, anchors) * _ANCHOR_STRIDES

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return _boxes(expected_distances(deltas), anchors)

    def losses(self, features: DensePredictions, batch: Batch) -> dict[str, Tensor]:
        found = features
        aligns = self.settings.assignment == "task_aligned" and not self.is_warming_up
        with torch.no_grad():
            gt_valid = valid_targets(batch.boxes, batch.labels, batch.is_crowd)
            scores = self.scores(found)
            if aligns:
                boxes = self.decode(found.deltas, found.anchors)
                objects = (batch.boxes, batch.labels, gt_valid)
                matches, quality = assign_by_alignment(found.anchors, boxes, scores, *objects)
            else:
                matches = match_adaptively(found.anchors, found.level_sizes, batch.boxes, gt_valid)
                quality = torch.zeros_like(scores[..., 0])
            labels = take_matched(batch.labels, matches, self.num_classes)
            images, indices = (matches >= 0).nonzero().unbind(1)  # the one wait for the device
            gt_boxes = batch.boxes[images, matches[images, indices]]
        anchors, deltas = found.anchors[indices], found.deltas[images, indices]
        distances = expected_distances(deltas)
        with torch.no_grad():
            if not aligns:
                quality[images, indices] = 1 - iou_loss(_boxes(distances, anchors), gt_boxes)
            weights = quality[images, indices] if aligns else scores[images, indices].amax(dim=-1)

        if self.settings.assignment == "task_aligned" and self.is_warming_up:
            classes = dense_class_losses(found.logits, labels, "focal")
        else:
            classes = dense_class_losses(found.logits, labels, self.class_loss, quality)
        boxes = box_losses(distances, anchors, gt_boxes, self.box_loss, encode=self.encode, decode=_boxes)
        distributions = distribution_focal_losses(deltas, self.encode(gt_boxes, anchors))
        total = weights.sum()
        return normalized(
            {
                "loss_class": LossSum(classes.sum(), (matches >= 0).sum()),
                "loss_box": LossSum(_BOX_WEIGHT * (boxes * weights).sum(), total, 1e-6),
                "loss_distribution": LossSum(
                    _DISTRIBUTION_WEIGHT * (distributions * weights).sum(), total, 1e-6
                ),
            }
        )


def _boxes(distances: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) whose sides lie at `distances` (..., 4) in strides from the centres of `anchors`."""
    return decode_distances(distances / _ANCHOR_STRIDES, anchors)
