"""Faster R-CNN on any backbone with a pyramid: `faster_rcnn` builds it, `FasterRCNN` is the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

import backbones
from tasks.contracts import Batch, Detections, Model
from tasks.distributed import LossSum, normalized
from tasks.preprocessing import Preprocessing

from .cascade import CascadeHead, cascade_head
from .losses import BoxLoss, ClassLoss, check_loss
from .matching import valid_targets
from .postprocess import DetectionSettings
from .pyramid import detector_pyramid, sizes_of_levels
from .roi_align import PyramidTable
from .roi_head import BoxHeadSettings, RoIHead, RoISamples
from .rpn import AnchorPredictions, ProposalSettings, RegionProposalNetwork

# Boxes are pooled from maps up to this stride, P2 to P5; P6 is for proposals alone (FPN, section 4.1).
_LAST_POOLED_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class FasterRCNNSettings:
    """Settings of a Faster R-CNN. Defaults are torchvision's, so that its weights act as they did there."""

    anchor_sizes: Sequence[float] | None = None
    """Side in pixels of the square anchor of each level; None for 8 times its stride."""
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """height / width of the anchors of each cell."""
    proposals: ProposalSettings = field(default_factory=ProposalSettings)
    box_head: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    cascade: Sequence[float] | None = None
    """Box heads one after another, each for the boxes of the one before (Cascade R-CNN), positive where they overlap an
    object this much: [0.5, 0.6, 0.7] in the paper. None for one head with `box_foreground_iou`."""
    class_loss: ClassLoss = "cross_entropy"
    """Of the softmax of the box head, "cross_entropy" or "focal"."""
    box_loss: BoxLoss = "smooth_l1"
    """Of the box head's deltas, "l1" or "smooth_l1"; or of its boxes, "iou", "giou", "diou" or "ciou"."""
    rpn_box_loss: BoxLoss = "smooth_l1"
    """The same for proposals."""
    detection: DetectionSettings = field(default_factory=DetectionSettings)

    def __post_init__(self) -> None:
        check_loss("class_loss", self.class_loss, ClassLoss)
        check_loss("box_loss", self.box_loss, BoxLoss)
        check_loss("rpn_box_loss", self.rpn_box_loss, BoxLoss)
        if self.cascade is not None and not (self.cascade and all(0 < iou < 1 for iou in self.cascade)):
            raise ValueError(
                f"model.cascade={list(self.cascade)} must be overlaps between 0 and 1, one for each box head, such as "
                "[0.5,0.6,0.7]; or null for one head"
            )


def faster_rcnn(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: FasterRCNNSettings = FasterRCNNSettings(),
) -> "FasterRCNN":
    """A Faster R-CNN from plain values.

    Args:
        num_classes: K, without background.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes, such as `{"name": "fpn", "channels": 256}`;
            None for its defaults.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        settings: all else.

    Raises:
        ValueError: an unknown backbone, pyramid or option; settings that do not fit the pyramid's levels.
    """
    extractor, channels, _ = detector_pyramid("faster_rcnn", backbone, pyramid)
    rpn = RegionProposalNetwork(
        channels,
        anchor_sizes=sizes_of_levels(settings.anchor_sizes, extractor, strides=8),
        anchor_ratios=settings.anchor_ratios,
        box_loss=settings.rpn_box_loss,
        settings=settings.proposals,
    )
    make_head = partial(
        RoIHead,
        channels,
        num_classes=num_classes,
        class_loss=settings.class_loss,
        box_loss=settings.box_loss,
        detection=settings.detection,
    )
    ious = settings.cascade or [settings.box_head.box_foreground_iou]
    roi_head = cascade_head(make_head, settings.box_head, ious)
    return FasterRCNN(extractor, rpn, roi_head, Preprocessing.of(preprocessing))


class FasterRCNNFeatures(NamedTuple):
    """What losses and predictions share."""

    table: PyramidTable
    """The maps that boxes are pooled from."""
    anchors: AnchorPredictions
    """What the proposal network says of each anchor."""


class FasterRCNN(Model):
    """The network. `features`, `losses` and `predictions` are those of the `Model` contract."""

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        rpn: RegionProposalNetwork,
        roi_head: RoIHead | CascadeHead,
        preprocessing: Preprocessing,
    ):
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_head = roi_head
        self.preprocessing = preprocessing
        self.num_classes = roi_head.num_classes
        pooled = {
            name: info for name, info in backbone.feature_info.items() if info.stride <= _LAST_POOLED_STRIDE
        }
        self.pooled_levels = tuple(pooled)
        self.pooled_strides = tuple(info.stride for info in pooled.values())

    def features(self, batch: Batch) -> FasterRCNNFeatures:
        maps = self.backbone(self.preprocessing.normalize(batch.images, batch.sizes))
        height, width = batch.images.shape[-2:]
        anchors = self.rpn(list(maps.values()), (height, width))
        table = PyramidTable.of([maps[level] for level in self.pooled_levels], self.pooled_strides)
        return FasterRCNNFeatures(table, anchors)

    def losses(self, features: FasterRCNNFeatures, batch: Batch) -> dict[str, Tensor]:
        return normalized(self.box_losses(features, batch)[0])

    def box_losses(self, features: FasterRCNNFeatures, batch: Batch) -> tuple[dict[str, LossSum], RoISamples]:
        """The losses of the proposal network and of the box head, and the samples that the last head was trained on."""
        gt_valid = valid_targets(batch.boxes, batch.labels, batch.is_crowd)
        losses, samples = self.roi_head.train_on(
            features.table, self.sample(features, batch), batch, gt_valid
        )
        return {**self.rpn.losses(features.anchors, batch.boxes, gt_valid), **losses}, samples

    def predictions(self, features: FasterRCNNFeatures, batch: Batch) -> Detections:
        return self.roi_head.detect(features.table, *self.propose(features, batch), batch.sizes)

    def class_layers(self) -> dict[str, int]:
        return {f"roi_head.{layer}": outputs for layer, outputs in self.roi_head.class_layers().items()}

    def sample(self, features: FasterRCNNFeatures, batch: Batch) -> RoISamples:
        """Boxes to train the heads on, drawn from the proposals and the objects of the batch."""
        proposals, valid = self.propose(features, batch, for_losses=True)
        gt_valid = valid_targets(batch.boxes, batch.labels, batch.is_crowd)
        return self.roi_head.sample(proposals, valid, batch.boxes, batch.labels, gt_valid)

    def propose(
        self, features: FasterRCNNFeatures, batch: Batch, *, for_losses: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`RegionProposalNetwork.propose` with as many as losses or predictions get."""
        settings = self.rpn.settings
        pre_nms, post_nms = (
            (settings.rpn_pre_nms_train, settings.rpn_post_nms_train) if for_losses
            else (settings.rpn_pre_nms_test, settings.rpn_post_nms_test)
        )  # fmt: skip
        return self.rpn.propose(features.anchors, batch.sizes, pre_nms=pre_nms, post_nms=post_nms)
