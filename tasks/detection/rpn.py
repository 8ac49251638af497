"""Region proposal network: scores and shifts anchors on every level, proposes the best as boxes.

Faster R-CNN (Ren et al., 2015), section 3.1, on a pyramid as in FPN (Lin et al., 2017), section 4.1.

Legend:
    B  images     L  levels     A  anchors of an image, by level, row, column and ratio
    P  proposals of an image, padding included     G  rows of objects, padding included
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.layers import ConvNormSequential, one_pass
from tasks.distributed import LossSum

from .anchors import make_anchors
from .boxes import at_least, clip, decode, encode
from .losses import BoxLoss, objectness_loss, sampled_box_loss
from .matching import BACKGROUND, match, take_matched
from .sampling import sample_balanced
from .selection import best_of_each_level, take_rows
from .suppression import suppress_images

_MIN_SIZE = 1e-3  # proposals thinner than this are dropped, as torchvision does


class AnchorPredictions(NamedTuple):
    """What the network says of each anchor of a batch."""

    anchors: Tensor
    """(A, 4) float32, the same for all images."""
    objectness: Tensor
    """(B, A) logits."""
    deltas: Tensor
    """(B, A, 4)."""
    level_sizes: tuple[int, ...]
    """Anchors of each level; they sum to A."""


@dataclass(frozen=True, kw_only=True)
class ProposalSettings:
    """Settings of the proposal network, under the names that users give them."""

    rpn_convs: int = 1
    """Convolutions before what is said of each anchor."""
    rpn_foreground_iou: float = 0.7
    """Anchors that overlap an object this much are positive, ..."""
    rpn_background_iou: float = 0.3
    """... and those that overlap all objects less than this negative."""
    rpn_samples: int = 256
    """Anchors of each image that the losses look at."""
    rpn_positive_fraction: float = 0.5
    """At most this share of them is positive."""
    rpn_pre_nms_train: int = 2000
    """Best anchors of each level that go into suppression for losses."""
    rpn_post_nms_train: int = 2000
    """Proposals of each image for losses."""
    rpn_pre_nms_test: int = 1000
    """Best anchors of each level that go into suppression for predictions."""
    rpn_post_nms_test: int = 1000
    """Proposals of each image for predictions."""
    rpn_nms_threshold: float = 0.7
    """Proposals that overlap a better one more than this are dropped."""

    def __post_init__(self) -> None:
        if self.rpn_convs < 1:
            raise ValueError(f"model.rpn_convs={self.rpn_convs} must be at least 1")


class RegionProposalNetwork(nn.Module):
    """Convolutions and two predictors, shared by all levels, with what is made of their output."""

    def __init__(
        self,
        channels: int,
        *,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        box_loss: BoxLoss,
        settings: ProposalSettings,
    ):
        super().__init__()
        self.anchor_sizes = tuple(anchor_sizes)
        self.anchor_ratios = tuple(anchor_ratios)
        self.box_loss: BoxLoss = box_loss
        self.settings = settings
        num_ratios = len(self.anchor_ratios)
        self.convs = ConvNormSequential()
        for _ in range(settings.rpn_convs):
            self.convs.extend((nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)))
        self.objectness = nn.Conv2d(channels, num_ratios, 1)
        self.deltas = nn.Conv2d(channels, num_ratios * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], image_size: tuple[int, int]) -> AnchorPredictions:
        """Predictions for the anchors of all `maps` (B, C, H, W) of padded images of `image_size` (h, w)."""
        # Both predictors as one: they read the same map, which is far larger than what they write.
        # In the maps' precision here, once and not for each level.
        weight = torch.cat((self.objectness.weight, self.deltas.weight)).to(maps[0].dtype)
        assert self.objectness.bias is not None and self.deltas.bias is not None
        bias = torch.cat((self.objectness.bias, self.deltas.bias)).to(maps[0].dtype)
        num_ratios = len(self.anchor_ratios)
        with one_pass(self, maps[0]):
            hidden = [self.convs(level) for level in maps]
        levels = [F.conv2d(level, weight, bias).permute(0, 2, 3, 1).flatten(1, 2) for level in hidden]
        cells = torch.cat(levels, dim=1)
        objectness = cells[..., :num_ratios].flatten(1)
        deltas = cells[..., num_ratios:].unflatten(2, (num_ratios, 4)).flatten(1, 2)
        map_sizes = tuple((level.shape[2], level.shape[3]) for level in maps)
        device = maps[0].device
        anchors = make_anchors(image_size, map_sizes, self.anchor_sizes, self.anchor_ratios, device)
        level_sizes = tuple(level.shape[1] * num_ratios for level in levels)
        return AnchorPredictions(anchors, objectness, deltas, level_sizes)

    @torch.no_grad()
    def propose(
        self, predictions: AnchorPredictions, sizes: Tensor, *, pre_nms: int, post_nms: int
    ) -> tuple[Tensor, Tensor]:
        """Proposals (B, P, 4), best first, inside images of `sizes` (B, 2); bool (B, P), which are no padding.

        Of each level of each image, the `pre_nms` best go into non-maximum suppression; of each image, the
        `post_nms` best come out. Padding comes last and is all zero.
        """
        levels = best_of_each_level(predictions.objectness.float(), predictions.level_sizes, pre_nms)
        score, index = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        deltas = take_rows(predictions.deltas, index)
        boxes = clip(decode(deltas, predictions.anchors[index]), sizes)
        # Empty boxes stay in place, where they suppress nothing; NaN ends here as well.
        usable = at_least(boxes, _MIN_SIZE) & (score > -torch.inf)
        boxes = boxes.where(usable[..., None], 0)
        # (B, all levels)
        level = torch.cat([torch.full_like(index, n) for n, (_, index) in enumerate(levels)], dim=1)
        keep = usable & suppress_images(boxes, score, level, len(levels), self.settings.rpn_nms_threshold)
        score, best = score.where(keep, -torch.inf).topk(min(post_nms, score.shape[1]), dim=1)
        valid = keep.gather(1, best)
        return take_rows(boxes, best).where(valid[..., None], 0), valid

    def losses(
        self, predictions: AnchorPredictions, gt_boxes: Tensor, gt_valid: Tensor
    ) -> dict[str, LossSum]:
        """Losses of a sample of anchors for objects `gt_boxes` (B, G, 4), of which `gt_valid` (B, G) count."""
        anchors = predictions.anchors
        with torch.no_grad():
            matches = match(
                anchors,
                gt_boxes,
                gt_valid,
                foreground_iou=self.settings.rpn_foreground_iou,
                background_iou=self.settings.rpn_background_iou,
                low_quality=True,
            )
            samples = sample_balanced(
                matches >= 0,
                matches == BACKGROUND,
                budget=self.settings.rpn_samples,
                positive_fraction=self.settings.rpn_positive_fraction,
            )
            objects = take_matched(gt_boxes, matches.gather(1, samples.indices), 0)
        logits = predictions.objectness.gather(1, samples.indices)
        deltas = predictions.deltas.gather(1, samples.indices[..., None].expand(-1, -1, 4))
        return {
            "loss_objectness": objectness_loss(logits, samples.positive, samples.valid),
            "loss_rpn_box": sampled_box_loss(
                deltas,
                anchors[samples.indices],
                objects,
                samples.positive,
                samples.valid.sum(),
                self.box_loss,
                encode=encode,
                decode=decode,
            ),
        }
