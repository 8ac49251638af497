"""RetinaNet on any backbone with a pyramid: `retinanet` builds it, `RetinaNet` is the network.

Focal Loss for Dense Object Detection (Lin et al., 2017).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.contracts import Batch
from tasks.preprocessing import Preprocessing

from .dense_detector import AnchorGrid, DenseDetectionSettings, DenseDetector
from .dense_head import DenseHead, DensePredictions
from .losses import BoxLoss, DenseClassLoss, dense_class_losses
from .matching import IGNORED, match, take_matched, valid_targets
from .pyramid import P3_TO_P7, detector_pyramid, sizes_of_levels


@dataclass(frozen=True, kw_only=True)
class RetinaNetSettings(DenseDetectionSettings):
    """Settings of a RetinaNet. Defaults are torchvision's, so that its weights act as they did there; its second
    version is `head_norm="group", box_loss="giou"` on a pyramid with `extra="conv_c5"`."""

    anchor_sizes: Sequence[float] | None = None
    """Side in pixels of the smallest square anchor of each level; None for 4 times its stride."""
    anchors_per_octave: int = 3
    """Sizes of anchors from there to twice that, evenly in the logarithm."""
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    """height / width of the anchors of each cell."""
    foreground_iou: float = 0.5
    """Anchors that overlap an object this much stand for it, ..."""
    background_iou: float = 0.4
    """... and those that overlap all objects less than this for background."""
    head_layers: int = 4
    """Convolutions of each of the two towers of the head."""
    head_norm: str | None = None
    """Norm after each of them, which then has no bias: "batch", "group", "sync", "frozen"."""
    class_loss: DenseClassLoss = "focal"
    box_loss: BoxLoss = "l1"
    max_detections: int = 300


def retinanet(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    settings: RetinaNetSettings = RetinaNetSettings(),
) -> "RetinaNet":
    """A RetinaNet from plain values.

    Args:
        num_classes: K, without background.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes; what it leaves open of an FPN gives P3 to P7.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        settings: all else.

    Raises:
        ValueError: an unknown backbone, pyramid or option; settings that do not fit the pyramid's levels.
    """
    extractor, channels, _ = detector_pyramid("retinanet", backbone, pyramid, P3_TO_P7)
    smallest = sizes_of_levels(settings.anchor_sizes, extractor, strides=4)
    octave = settings.anchors_per_octave
    # Rounded down, as torchvision does.
    sizes = [tuple(int(size * 2 ** (n / octave)) for n in range(octave)) for size in smallest]
    head = DenseHead(
        channels,
        num_classes=num_classes,
        num_anchors=octave * len(settings.anchor_ratios),
        layers=settings.head_layers,
        norm=settings.head_norm,
    )
    grid = AnchorGrid(sizes, settings.anchor_ratios)
    return RetinaNet(extractor, [head], Preprocessing.of(preprocessing), grid, settings)


class RetinaNet(DenseDetector[RetinaNetSettings]):
    """The network. Its losses are means over images of sums over anchors, divided by those that stand for an
    object."""

    def losses(self, features: DensePredictions, batch: Batch) -> dict[str, Tensor]:
        found = features
        with torch.no_grad():
            matches = match(
                found.anchors,
                batch.boxes,
                valid_targets(batch.boxes, batch.labels, batch.is_crowd),
                foreground_iou=self.settings.foreground_iou,
                background_iou=self.settings.background_iou,
                low_quality=True,
            )
            labels = take_matched(batch.labels, matches, self.num_classes)
            weights = 1 / ((matches >= 0).sum(dim=1).clamp(min=1) * len(batch))  # (B,)
            images, indices = (matches >= 0).nonzero().unbind(1)  # the one wait for the device
        class_losses = dense_class_losses(found.logits, labels, self.class_loss) * (matches != IGNORED)
        gt_boxes = batch.boxes[images, matches[images, indices]]
        boxes = self.box_losses(found.deltas[images, indices], found.anchors[indices], gt_boxes)
        return {
            "loss_class": (class_losses.sum(dim=1) * weights).sum(),
            "loss_box": (boxes * weights[images]).sum(),
        }
