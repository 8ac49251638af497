"""Mask R-CNN (He et al., 2017): `mask_rcnn` builds it, `MaskRCNN` is the network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tasks.contracts import Batch, Detections
from tasks.detection.faster_rcnn import FasterRCNN, FasterRCNNFeatures, FasterRCNNSettings, faster_rcnn
from tasks.detection.matching import take_matched
from tasks.detection.roi_align import PyramidTable
from tasks.detection.roi_head import RoISamples
from tasks.distributed import LossSum, normalized
from tasks.preprocessing import Preprocessing

from .mask_head import MaskHead, MaskHeadSettings, mask_loss
from .mask_targets import sample_masks


def mask_rcnn(
    *,
    mask_head: MaskHeadSettings = MaskHeadSettings(),  # noqa: B008 (it is frozen)
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: FasterRCNNSettings = FasterRCNNSettings(),  # noqa: B008 (it is frozen)
) -> "MaskRCNN":
    """A Mask R-CNN from plain values: the settings of the mask branch, and the arguments of `faster_rcnn`.

    Raises:
        ValueError: what `faster_rcnn` raises.
    """
    base = faster_rcnn(
        num_classes=num_classes,
        backbone=backbone,
        pyramid=pyramid,
        preprocessing=preprocessing,
        settings=settings,
    )
    channels = next(iter(base.backbone.feature_info.values())).channels  # type: ignore[union-attr]
    return MaskRCNN(base, MaskHead(channels, num_classes, mask_head))


class MaskRCNN(FasterRCNN):
    """A Faster R-CNN with a mask branch beside its box head; parts and names of the former stay."""

    def __init__(self, detector: FasterRCNN, mask_head: MaskHead):
        super().__init__(
            detector.backbone,  # type: ignore[arg-type]
            detector.rpn,
            detector.roi_head,
            detector.preprocessing,
        )
        self.mask_head = mask_head

    def class_layers(self) -> dict[str, int]:
        return {**super().class_layers(), "mask_head.masks": 1}

    def losses(self, features: FasterRCNNFeatures, batch: Batch) -> dict[str, Tensor]:
        losses, samples = self.box_losses(features, batch)
        return normalized({**losses, "loss_mask": self.mask_loss(features.table, batch, samples)})

    def mask_loss(self, table: PyramidTable, batch: Batch, samples: RoISamples) -> LossSum:
        """The loss of the masks in all positive boxes of `samples` whose object has one."""
        assert batch.mask_pixels is not None and batch.mask_places is not None, "the batch has no masks"
        places = take_matched(batch.mask_places, samples.matches, 0)
        valid = samples.positive & (places[..., 3] > 0)
        images, columns = valid.nonzero().unbind(1)  # the one wait for the device
        boxes, labels = samples.boxes[images, columns], samples.labels[images, columns]
        logits = self.mask_head(table, boxes, images, labels)
        targets = sample_masks(
            batch.mask_pixels, places[images, columns], boxes, batch.sizes[images], logits.shape[-1]
        )
        return mask_loss(logits, targets)

    def predictions(self, features: FasterRCNNFeatures, batch: Batch) -> Detections:
        found = super().predictions(features, batch)
        images, columns = (found.labels >= 0).nonzero().unbind(1)  # the one wait for the device here
        boxes, labels = found.boxes[images, columns], found.labels[images, columns]
        logits = self.mask_head(features.table, boxes, images, labels)
        masks = torch.zeros(*found.labels.shape, *logits.shape[1:], device=logits.device)
        masks[images, columns] = logits.float().sigmoid()
        found.masks = masks
        return found
