"""RetinaNet on any backbone with a pyramid: `retinanet` builds it, `RetinaNet` is the network.

Focal Loss for Dense Object Detection (Lin et al., 2017).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.contracts import Batch
from tasks.preprocessing import Preprocessing

from .arguments import takes_arguments_of
from .boxes import Weights, decode, encode
from .dense_detector import DenseDetector
from .dense_head import DenseHead, DensePredictions
from .losses import BoxLoss, ClassLoss, box_losses, dense_class_losses
from .matching import IGNORED, match, take_matched, trainable
from .postprocess import DenseSelection
from .pyramid import check_one_a_level, detector_pyramid

_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
# P3 to P7: P2 would have most of all anchors (section 4).
_PYRAMID = {"levels": ("c3", "c4", "c5"), "extra": "conv_p5"}


@takes_arguments_of(DenseSelection)
def retinanet(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    anchor_sizes: Sequence[float] | None = None,
    anchors_per_octave: int = 3,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    head_layers: int = 4,
    head_norm: str | None = None,
    class_loss: ClassLoss = "focal",
    box_loss: BoxLoss = "l1",
    max_detections: int = 300,
    **selection: Any,
) -> "RetinaNet":
    """A RetinaNet from plain values. Defaults are torchvision's, so that its weights act as they did there;
    its second version is `pyramid={"extra": "conv_c5"}, head_norm="group", box_loss="giou"`.

    Args:
        num_classes: K, without background.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes; what it leaves open of an FPN gives P3 to P7.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        anchor_sizes: side in pixels of the smallest square anchor of each level; None for 4 times its stride.
        anchors_per_octave: sizes of anchors from there to twice that, evenly in the logarithm.
        anchor_ratios: height / width of the anchors of each cell.
        foreground_iou: anchors that overlap an object this much stand for it, ...
        background_iou: ... and those that overlap all objects less than this for background.
        head_layers: convolutions of each of the two towers of the head.
        head_norm: norm after each of them, which then has no bias: "batch", "group", "sync", "frozen".
        class_loss: "focal", or "cross_entropy" of the same sigmoids.
        box_loss: of deltas, "l1" or "smooth_l1"; or of boxes, "iou", "giou", "diou" or "ciou".
        max_detections: most detections of an image.
        **selection: the others of `DenseSelection`, what makes a box a detection.

    Raises:
        ValueError: an unknown backbone, pyramid, option or loss; settings that do not fit the pyramid's levels.
    """
    extractor, channels, strides = detector_pyramid("retinanet", backbone, pyramid, _PYRAMID)
    if anchor_sizes is None:
        anchor_sizes = [4 * stride for stride in strides]
    check_one_a_level("anchor_sizes", anchor_sizes, extractor)
    head = DenseHead(
        channels,
        num_classes=num_classes,
        num_anchors=anchors_per_octave * len(anchor_ratios),
        layers=head_layers,
        width=channels,
        norm=head_norm,
        bias=False,
    )
    return RetinaNet(
        extractor,
        [head],
        Preprocessing.of(preprocessing),
        # Rounded down, as torchvision does.
        anchor_sizes=[
            tuple(int(size * 2 ** (n / anchors_per_octave)) for n in range(anchors_per_octave))
            for size in anchor_sizes
        ],
        anchor_ratios=anchor_ratios,
        foreground_iou=foreground_iou,
        background_iou=background_iou,
        class_loss=class_loss,
        box_loss=box_loss,
        selection=DenseSelection(max_detections=max_detections, **selection),
    )


class RetinaNet(DenseDetector):
    """The network. Its losses are means over images of sums over anchors, divided by those that stand for an
    object."""

    def __init__(self, *parts: Any, foreground_iou: float, background_iou: float, **settings: Any):
        super().__init__(*parts, **settings)
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return encode(boxes, anchors, _WEIGHTS)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return decode(deltas, anchors, _WEIGHTS)

    def scores(self, found: DensePredictions) -> Tensor:
        return found.logits.float().sigmoid()

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        found = self.dense_predictions(features, batch)
        with torch.no_grad():
            matches = match(
                found.anchors,
                batch.boxes,
                trainable(batch.boxes, batch.labels, batch.is_crowd),
                foreground_iou=self.foreground_iou,
                background_iou=self.background_iou,
                low_quality=True,
            )
            labels = take_matched(batch.labels, matches, self.num_classes)
            weights = 1 / ((matches >= 0).sum(dim=1).clamp(min=1) * len(batch))  # (B,)
            images, indices = (matches >= 0).nonzero().unbind(1)  # the one wait for the device
        class_losses = dense_class_losses(found.logits, labels, self.class_loss) * (matches != IGNORED)
        boxes = box_losses(
            found.deltas[images, indices],
            found.anchors[indices],
            batch.boxes[images, matches[images, indices]],
            self.box_loss,
            encode=self.encode,
            decode=self.decode,
        )
        return {
            "loss_class": (class_losses.sum(dim=1) * weights).sum(),
            "loss_box": (boxes * weights[images]).sum(),
        }
