"""Faster R-CNN on any backbone with a pyramid: `faster_rcnn` builds it, `FasterRCNN` is the network."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

import backbones
from backbones.checks import check_choice
from backbones.layers import NORMS, Norm
from tasks.contracts import Batch, Detections, Model
from tasks.preprocessing import Preprocessing

from .arguments import takes_arguments_of
from .losses import BoxLoss, ClassLoss, check_losses
from .matching import trainable
from .postprocess import Selection
from .pyramid import check_one_a_level, detector_pyramid
from .roi_align import PyramidTable
from .roi_head import RoIHead, RoISamples
from .rpn import AnchorPredictions, RegionProposalNetwork

# Boxes are pooled from maps up to this stride, P2 to P5; P6 is for proposals alone (FPN, section 4.1).
_LAST_POOLED_STRIDE = 32


@takes_arguments_of(Selection)
def faster_rcnn(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    anchor_sizes: Sequence[float] | None = None,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    rpn_convs: int = 1,
    rpn_foreground_iou: float = 0.7,
    rpn_background_iou: float = 0.3,
    rpn_samples: int = 256,
    rpn_positive_fraction: float = 0.5,
    rpn_pre_nms_train: int = 2000,
    rpn_post_nms_train: int = 2000,
    rpn_pre_nms_test: int = 1000,
    rpn_post_nms_test: int = 1000,
    rpn_nms_threshold: float = 0.7,
    box_roi_size: int = 7,
    box_convs: int = 0,
    box_linears: int = 2,
    box_norm: Norm | None = None,
    box_representation_size: int = 1024,
    box_foreground_iou: float = 0.5,
    box_samples: int = 512,
    box_positive_fraction: float = 0.25,
    class_loss: ClassLoss = "cross_entropy",
    box_loss: BoxLoss = "smooth_l1",
    rpn_box_loss: BoxLoss = "smooth_l1",
    **selection: Any,
) -> "FasterRCNN":
    """A Faster R-CNN from plain values. Defaults are torchvision's, so that its weights act as they did there.

    Args:
        num_classes: K, without background.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes, such as `{"name": "fpn", "channels": 256}`;
            None for its defaults.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        anchor_sizes: side in pixels of the square anchor of each level; None for 8 times its stride.
        anchor_ratios: height / width of the anchors of each cell.
        rpn_convs: convolutions before what is said of each anchor.
        rpn_foreground_iou: anchors that overlap an object this much are positive, ...
        rpn_background_iou: ... and those that overlap all objects less than this negative.
        rpn_samples: anchors of each image that the proposal losses look at.
        rpn_positive_fraction: at most this share of them is positive.
        rpn_pre_nms_train: best anchors of each level that go into suppression for losses.
        rpn_post_nms_train: proposals of each image for losses.
        rpn_pre_nms_test: the same for predictions.
        rpn_post_nms_test: the same for predictions.
        rpn_nms_threshold: proposals that overlap a better one more than this are dropped.
        box_roi_size: cells along each side of what is pooled from a proposal.
        box_convs: convolutions of the box head, as wide as the pyramid, ...
        box_linears: ... and linear layers after them.
        box_norm: norm after each of these convolutions; None for none.
        box_representation_size: width of the linear layers of the box head.
        box_foreground_iou: proposals that overlap an object this much are positive, all others negative.
        box_samples: proposals of each image that the box losses look at.
        box_positive_fraction: at most this share of them is positive.
        class_loss: of the softmax of the box head, "cross_entropy" or "focal".
        box_loss: of the box head's deltas, "l1" or "smooth_l1"; or of its boxes, "iou", "giou", "diou" or "ciou".
        rpn_box_loss: the same for proposals.
        **selection: those of `Selection`, what makes a box a detection.

    torchvision's `fasterrcnn_resnet50_fpn_v2` (Li et al., 2021, Benchmarking Detection Transfer Learning with
    Vision Transformers, section 2) is `rpn_convs=2, box_convs=4, box_linears=1, box_norm="batch"` on a pyramid
    with `norm="batch"`.

    Raises:
        ValueError: an unknown backbone, pyramid or option; settings that do not fit the pyramid's levels.
    """
    check_losses(class_loss, box_loss)
    check_losses(class_loss, rpn_box_loss, "rpn_box_loss")
    if rpn_convs < 1 or box_convs < 0 or box_linears < 1:
        raise ValueError(
            f"model.rpn_convs={rpn_convs} and model.box_linears={box_linears} must be at least 1, "
            f"model.box_convs={box_convs} at least 0"
        )
    check_choice("model.box_norm", box_norm, (None, *NORMS))
    extractor, channels, strides = detector_pyramid("faster_rcnn", backbone, pyramid)
    if anchor_sizes is None:
        anchor_sizes = [8 * stride for stride in strides]
    check_one_a_level("anchor_sizes", anchor_sizes, extractor)
    return FasterRCNN(
        extractor,
        RegionProposalNetwork(
            channels,
            anchor_sizes=anchor_sizes,
            anchor_ratios=anchor_ratios,
            foreground_iou=rpn_foreground_iou,
            background_iou=rpn_background_iou,
            samples=rpn_samples,
            positive_fraction=rpn_positive_fraction,
            nms_threshold=rpn_nms_threshold,
            box_loss=rpn_box_loss,
            convs=rpn_convs,
        ),
        RoIHead(
            channels,
            num_classes=num_classes,
            roi_size=box_roi_size,
            representation_size=box_representation_size,
            convs=box_convs,
            linears=box_linears,
            norm=box_norm,
            foreground_iou=box_foreground_iou,
            samples=box_samples,
            positive_fraction=box_positive_fraction,
            class_loss=class_loss,
            box_loss=box_loss,
            selection=Selection(**selection),
        ),
        Preprocessing.of(preprocessing),
        proposals_train=(rpn_pre_nms_train, rpn_post_nms_train),
        proposals_test=(rpn_pre_nms_test, rpn_post_nms_test),
    )


class FasterRCNN(Model):
    """The network. `features`, `losses` and `predictions` are those of the `Model` contract.

    `proposals_train` and `proposals_test` are numbers of boxes (before, after) suppression, for losses and
    for predictions.
    """

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        rpn: RegionProposalNetwork,
        roi_head: RoIHead,
        preprocessing: Preprocessing,
        *,
        proposals_train: tuple[int, int],
        proposals_test: tuple[int, int],
    ):
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_head = roi_head
        self.preprocessing = preprocessing
        self.num_classes = roi_head.num_classes
        self.proposals_train = proposals_train
        self.proposals_test = proposals_test
        pooled = {
            name: info for name, info in backbone.feature_info.items() if info.stride <= _LAST_POOLED_STRIDE
        }
        self.pooled_levels = tuple(pooled)
        self.pooled_strides = tuple(info.stride for info in pooled.values())

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocessing.normalize(batch.images, batch.sizes))

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        anchors = self.anchor_predictions(features, batch)
        return self.box_losses(self.table(features), batch, anchors, self.sample(anchors, batch))

    def box_losses(
        self, table: PyramidTable, batch: Batch, anchors: AnchorPredictions, samples: RoISamples
    ) -> dict[str, Tensor]:
        """The losses of the proposal network and of the box head on `samples`."""
        gt_valid = trainable(batch.boxes, batch.labels, batch.is_crowd)
        logits, deltas = self.roi_head(table, samples.boxes, samples.valid)
        return {
            **self.rpn.losses(anchors, batch.boxes, gt_valid),
            **self.roi_head.losses(logits, deltas, samples, batch.boxes),
        }

    def predictions(self, features: dict[str, Tensor], batch: Batch) -> Detections:
        return self.box_predictions(self.table(features), features, batch)

    def box_predictions(self, table: PyramidTable, features: dict[str, Tensor], batch: Batch) -> Detections:
        """The detections without masks."""
        pre_nms, post_nms = self.proposals_test
        anchors = self.anchor_predictions(features, batch)
        proposals, valid = self.rpn.propose(anchors, batch.sizes, pre_nms=pre_nms, post_nms=post_nms)
        logits, deltas = self.roi_head(table, proposals, valid)
        return self.roi_head.predictions(logits, deltas, proposals, valid, batch.sizes)

    def class_layers(self) -> dict[str, int]:
        return {"roi_head.classes": 1, "roi_head.deltas": 4}

    def anchor_predictions(self, features: dict[str, Tensor], batch: Batch) -> AnchorPredictions:
        """What the proposal network says of each anchor."""
        height, width = batch.images.shape[-2:]
        return self.rpn(list(features.values()), (height, width))

    def sample(self, anchors: AnchorPredictions, batch: Batch) -> RoISamples:
        """Boxes to train the heads on, drawn from the proposals and the objects of the batch."""
        pre_nms, post_nms = self.proposals_train
        proposals, valid = self.rpn.propose(anchors, batch.sizes, pre_nms=pre_nms, post_nms=post_nms)
        gt_valid = trainable(batch.boxes, batch.labels, batch.is_crowd)
        return self.roi_head.sample(proposals, valid, batch.boxes, batch.labels, gt_valid)

    def table(self, features: dict[str, Tensor]) -> PyramidTable:
        """The maps that boxes are pooled from."""
        return PyramidTable.of([features[level] for level in self.pooled_levels], self.pooled_strides)
