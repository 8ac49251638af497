"""The head of one-stage detectors: class scores and a box at every anchor of every cell.

RetinaNet (Lin et al., 2017), section 4; FCOS (Tian et al., 2019), section 3.2; YOLOX (Ge et al., 2021), section
2.1: two towers of convolutions, one for classes and one for boxes, whatever else differs.

Legend:
    B  images     K  classes     A  anchors of an image, by level, row, column and anchor of the cell
    a  anchors of a cell
"""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.layers import ConvNormSequential, make_norm, one_pass

PRIOR_PROBABILITY = 0.01
"""What a new head gives every class at every anchor: with more, background would drown all else (Focal Loss, 4.1)."""
PRIOR_LOGIT = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)


class DensePredictions(NamedTuple):
    """What the heads say of each anchor of a batch."""

    anchors: Tensor
    """(A, 4) float32, the same for all images."""
    logits: Tensor
    """(B, A, K), one sigmoid for each class."""
    deltas: Tensor
    """(B, A, 4 or more), in whatever encoding the detector uses."""
    quality: Tensor | None
    """(B, A) logits of centre-ness or objectness, of detectors that have it."""
    level_sizes: tuple[int, ...]
    """Anchors of each level; they sum to A."""


class DenseHead(nn.Module):
    """One map to class logits, deltas and, `with_quality`, one more logit from the tower of the boxes.

    `layers` convolutions in each tower, of `width` channels, None for those of the map; `stem` puts one of size 1
    before both. With a `norm`, `bias` says whether the convolutions before it have one all the same. Predictors have
    `kernel`, and that of boxes `box_outputs` for each anchor.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_classes: int,
        num_anchors: int = 1,
        layers: int,
        width: int | None = None,
        norm: str | None,
        bias: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        stem: bool = False,
        kernel: int = 3,
        with_quality: bool = False,
        box_outputs: int = 4,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.box_outputs = box_outputs
        width = channels if width is None else width

        def convolution(inputs: int, size: int) -> nn.Sequential:
            conv = nn.Conv2d(inputs, width, size, padding=size // 2, bias=bias or norm is None)
            norms = [] if norm is None else [make_norm(norm, width)]
            return ConvNormSequential(conv, *norms, activation(inplace=True))

        self.stem = convolution(channels, 1) if stem else nn.Identity()
        inputs = [width if stem else channels, *[width] * (layers - 1)][:layers]
        self.class_tower, self.box_tower = (
            nn.Sequential(*[convolution(size, 3) for size in inputs]) for _ in range(2)
        )
        last = width if layers or stem else channels
        # Outputs of one class side by side, for whoever moves classes between models.
        self.classes = nn.Conv2d(last, num_classes * num_anchors, kernel, padding=kernel // 2)
        self.deltas = nn.Conv2d(last, num_anchors * box_outputs, kernel, padding=kernel // 2)
        self.quality = nn.Conv2d(last, num_anchors, kernel, padding=kernel // 2) if with_quality else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, PRIOR_LOGIT)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (B, H * W * a, K), deltas (B, H * W * a, `box_outputs`) and quality (B, H * W * a) of a map
        (B, C, H, W)."""
        level = self.stem(level)
        boxes = self.box_tower(level)
        logits = self.classes(self.class_tower(level)).unflatten(1, (self.num_classes, self.num_anchors))
        deltas = self.deltas(boxes).unflatten(1, (self.num_anchors, self.box_outputs))
        quality = None if self.quality is None else self.quality(boxes).permute(0, 2, 3, 1).flatten(1)
        return (
            logits.permute(0, 3, 4, 2, 1).flatten(1, 3),
            deltas.permute(0, 3, 4, 1, 2).flatten(1, 3),
            quality,
        )


def predict_levels(heads: nn.ModuleList, maps: Sequence[Tensor], anchors: Tensor) -> DensePredictions:
    """What `heads`, one for all `maps` or one for each, say of `anchors` (A, 4)."""
    with one_pass(heads, maps[0]):
        found = [head(level) for head, level in zip(cycle(heads), maps)]
    logits, deltas, quality = zip(*found, strict=True)
    return DensePredictions(
        anchors,
        torch.cat(logits, dim=1),
        torch.cat(deltas, dim=1),
        None if quality[0] is None else torch.cat(quality, dim=1),
        tuple(level.shape[1] for level in logits),
    )
