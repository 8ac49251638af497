"""Box head: classifies proposals from their pooled features and refines them, one box for each class or for all.

Fast R-CNN (Girshick, 2015), section 2, on a pyramid as in FPN (Lin et al., 2017), section 4.2.

Legend:
    B  images     R  boxes of an image, padding included     S  boxes sampled of an image to train on
    K  classes; label K is background                        G  rows of objects, padding included
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.checks import check_choice
from backbones.fpn import conv_norm
from backbones.layers import NORMS, Norm
from tasks.contracts import Batch, Detections
from tasks.distributed import LossSum

from .boxes import Weights, clip, decode, encode
from .losses import BoxLoss, ClassLoss, class_loss, sampled_box_loss
from .matching import match, take_matched
from .postprocess import DetectionSettings, postprocess
from .roi_align import PyramidTable, multilevel_roi_align
from .sampling import sample_balanced
from .selection import candidates

# Deltas are about a tenth of a box; this brings their spread to one (Fast R-CNN's code, kept by the field).
DELTA_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class BoxHeadSettings:
    """Settings of the box head, under the names that users give them.

    torchvision's `fasterrcnn_resnet50_fpn_v2` (Li et al., 2021, Benchmarking Detection Transfer Learning with
    Vision Transformers, section 2) is `box_convs=4, box_linears=1, box_norm="batch"` with `rpn_convs=2` on a
    pyramid with `norm="batch"`.
    """

    box_roi_size: int = 7
    """Cells along each side of what is pooled from a proposal."""
    box_convs: int = 0
    """Convolutions, as wide as the pyramid, ..."""
    box_linears: int = 2
    """... and linear layers after them."""
    box_norm: Norm | None = None
    """Norm after each of these convolutions; None for none."""
    box_representation_size: int = 1024
    """Width of the linear layers."""
    box_foreground_iou: float = 0.5
    """Proposals that overlap an object this much are positive, all others negative."""
    box_samples: int = 512
    """Proposals of each image that the losses look at."""
    box_positive_fraction: float = 0.25
    """At most this share of them is positive."""

    def __post_init__(self) -> None:
        if self.box_convs < 0 or self.box_linears < 1:
            raise ValueError(
                f"model.box_linears={self.box_linears} must be at least 1, model.box_convs={self.box_convs} at least 0"
            )
        check_choice("model.box_norm", self.box_norm, (None, *NORMS))


class RoISamples(NamedTuple):
    """Boxes to train on: as they are drawn, in each image first the objects', then background, then padding."""

    boxes: Tensor
    """(B, S, 4)."""
    matches: Tensor
    """int64 (B, S): the row of the object that a positive box stands for; negative for the others."""
    labels: Tensor
    """int64 (B, S) in 0 … K."""
    positive: Tensor
    """bool (B, S); as they are drawn, never set past the first `box_samples * box_positive_fraction` slots."""
    valid: Tensor
    """bool (B, S): no padding."""


class BoxHead(nn.Module):
    """Pooled features (N, C, H, W), best stored channels_last, to (N, `out_features`): convolutions of C channels,
    each with a norm behind it or none, then linear layers, fc6 and those after it."""

    def __init__(self, channels: int, settings: BoxHeadSettings):
        super().__init__()
        convs, norm, roi_size = settings.box_convs, settings.box_norm, settings.box_roi_size
        self.out_features = out_features = settings.box_representation_size
        self.counts_rows = convs > 0 and norm in ("batch", "sync")
        self.convs = nn.Sequential(*(conv_norm(channels, channels, 3, norm, relu=True) for _ in range(convs)))
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        # Its inputs are ordered row, column, channel: the order in which RoIAlign stores them.
        self.fc6 = nn.Linear(roi_size * roi_size * channels, out_features)
        self.later = [f"fc{6 + i}" for i in range(1, settings.box_linears)]
        for name in self.later:
            self.add_module(name, nn.Linear(out_features, out_features))

    def forward(self, pooled: Tensor) -> Tensor:
        x = F.relu(self.fc6(self.convs(pooled).permute(0, 2, 3, 1).flatten(1)))
        for name in self.later:
            x = F.relu(self.get_submodule(name)(x))
        return x


class RoIHead(nn.Module):
    """Features pooled from boxes to class logits and deltas, with what is made of them.

    `weights` are those of the deltas; `class_agnostic` ones are the same for all classes.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        class_loss: ClassLoss,
        box_loss: BoxLoss,
        settings: BoxHeadSettings,
        detection: DetectionSettings,
        weights: Weights = DELTA_WEIGHTS,
        class_agnostic: bool = False,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.weights = weights
        self.class_loss: ClassLoss = class_loss
        self.box_loss: BoxLoss = box_loss
        self.settings = settings
        self.detection = detection
        self.head = BoxHead(channels, settings)
        self.classes = nn.Linear(self.head.out_features, num_classes + 1)
        self.deltas = nn.Linear(self.head.out_features, 4 if class_agnostic else num_classes * 4)
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):  # Fast R-CNN, section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, table: PyramidTable, boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, R, K + 1), background last, and deltas (B, R, K, 4) for `boxes` (B, R, 4), pooled
        from `table`.

        What comes for boxes that are not `valid` (B, R) means nothing.
        """
        return self.read(multilevel_roi_align(table, boxes, self.settings.box_roi_size), valid)

    def read(self, pooled: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what was `pooled` (B * R, C, S, S) from boxes."""
        # Padding must not be part of the statistics of a batch norm.
        if self.head.counts_rows and self.training:
            rows = valid.flatten().nonzero()[:, 0]
            found = self.head(pooled[rows])
            x = found.new_zeros(len(pooled), found.shape[1]).index_copy(0, rows, found)
        else:
            x = self.head(pooled)
        logits, deltas = self.classes(x).view(*valid.shape, -1), self.deltas(x).view(*valid.shape, -1, 4)
        return logits, deltas.expand(-1, -1, self.num_classes, -1)

    @torch.no_grad()
    def sample(
        self, proposals: Tensor, valid: Tensor, gt_boxes: Tensor, gt_labels: Tensor, gt_valid: Tensor
    ) -> RoISamples:
        """A sample of `proposals` (B, P, 4) where `valid` (B, P), and of the objects themselves.

        Objects are `gt_boxes` (B, G, 4) and `gt_labels` (B, G) where `gt_valid` (B, G). Proposals that
        overlap one by `box_foreground_iou` are positive, all others background (Fast R-CNN, section 2.3).
        """
        boxes = torch.cat((proposals, gt_boxes.to(proposals)), dim=1)
        valid = torch.cat((valid, gt_valid), dim=1)
        threshold = self.settings.box_foreground_iou
        matches = match(boxes, gt_boxes, gt_valid, foreground_iou=threshold, background_iou=threshold)
        samples = sample_balanced(
            valid & (matches >= 0),
            valid & (matches < 0),
            budget=self.settings.box_samples,
            positive_fraction=self.settings.box_positive_fraction,
        )
        boxes = boxes.gather(1, samples.indices[..., None].expand(-1, -1, 4))
        matches = matches.gather(1, samples.indices).where(samples.positive, -1)
        labels = take_matched(gt_labels, matches, self.num_classes)
        return RoISamples(boxes, matches, labels, samples.positive, samples.valid)

    def train_on(
        self, table: PyramidTable, samples: RoISamples, batch: Batch, gt_valid: Tensor
    ) -> tuple[dict[str, LossSum], RoISamples]:
        """The losses of `samples` pooled from `table`, and the samples to learn masks from: the same."""
        logits, deltas = self(table, samples.boxes, samples.valid)
        return self.losses(logits, deltas, samples, batch.boxes), samples

    def detect(self, table: PyramidTable, proposals: Tensor, valid: Tensor, sizes: Tensor) -> Detections:
        """Detections for `proposals` (B, R, 4) where `valid` (B, R), in images of `sizes` (B, 2)."""
        logits, deltas = self(table, proposals, valid)
        return self.predictions(logits, deltas, proposals, valid, sizes)

    def class_layers(self) -> dict[str, int]:
        """Layers with outputs for each class, and how many (`Model.class_layers`)."""
        return {"classes": 1, "deltas": 4}

    def losses(
        self, logits: Tensor, deltas: Tensor, samples: RoISamples, gt_boxes: Tensor
    ) -> dict[str, LossSum]:
        """Losses of `logits` (B, S, K + 1) and `deltas` (B, S, K, 4) for `samples` of objects `gt_boxes`."""
        label = samples.labels.clamp(max=self.num_classes - 1)  # background has no box and is masked below
        own = deltas.gather(2, label[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        return {
            "loss_class": class_loss(logits, samples.labels, samples.valid, self.class_loss),
            "loss_box": sampled_box_loss(
                own,
                samples.boxes,
                take_matched(gt_boxes, samples.matches, 0),
                samples.positive,
                samples.valid.sum(),
                self.box_loss,
                encode=partial(encode, weights=self.weights),
                decode=partial(decode, weights=self.weights),
            ),
        }

    def predictions(
        self, logits: Tensor, deltas: Tensor, proposals: Tensor, valid: Tensor, sizes: Tensor
    ) -> Detections:
        """Detections for `proposals` (B, R, 4) where `valid` (B, R), in images of `sizes` (B, 2)."""
        scores = logits.float().softmax(dim=-1)[..., : self.num_classes] * valid[..., None]
        found = candidates(scores, self.detection.score_threshold)
        boxes = decode(found.take(deltas), found.take(proposals), self.weights)
        return postprocess(found, clip(boxes, sizes), self.num_classes, self.detection)
