"""Semantic segmentation on any backbone: `semantic_fpn` and `deeplabv3` build it, `Segmenter` is the network."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

import backbones
from backbones.layers import Norm
from tasks.contracts import Batch, Model, PixelScores
from tasks.preprocessing import Preprocessing

from . import losses
from .aspp_head import ASPPHead
from .fpn_head import FPNHead

Loss = Literal["cross_entropy", "dice", "cross_entropy+dice"]


def semantic_fpn(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    channels: int = 128,
    loss: Loss = "cross_entropy",
) -> "Segmenter":
    """A feature pyramid with a light head on it (Panoptic FPN, section 3), from plain values.

    Args:
        num_classes: K, with the background where the data has one.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes, such as `{"name": "fpn", "channels": 256}`;
            None for its defaults.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        channels: width of the head.
        loss: what training minimises; dice counts every class the same, however small.

    Raises:
        ValueError: an unknown backbone, pyramid or option.
    """
    network = backbones.create(**backbone)
    usual = {"name": backbones.usual_pyramid(network.feature_info)}
    extractor = backbones.create_pyramid(network, **{**usual, **(pyramid or {})})
    head = FPNHead(extractor.feature_info, num_classes=num_classes, channels=channels)
    return Segmenter(extractor, head, preprocessing=preprocessing, loss=loss)


def deeplabv3(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    channels: int = 256,
    rates: Sequence[int] | None = None,
    norm: Norm = "batch",
    dropout: float = 0.5,
    loss: Loss = "cross_entropy",
) -> "Segmenter":
    """DeepLabV3 (Chen et al., 2017) from plain values: a dilated backbone and atrous spatial pyramid pooling.

    Args:
        num_classes: K, with the background where the data has one.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "output_stride": 8}`.
        pyramid: not used, with a warning if it is not None; the head reads the backbone's last map.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        channels: width of the head.
        rates: dilations of its branches; None for 12, 24, 36 at stride 8 and, as the paper has it, half of
            them at twice the stride.
        norm: after each of its convolutions; `batch` wants two images a step at the least.
        dropout: share of its features set to zero in training, from 0 up to below 1.
        loss: what training minimises; dice counts every class the same, however small.

    Raises:
        ValueError: an unknown backbone or option, a value out of its range.
    """
    if pyramid is not None:
        warnings.warn(
            f"deeplabv3 reads the backbone's last map; pyramid={dict(pyramid)} is not used", stacklevel=2
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"model.dropout={dropout} must be at least 0 and below 1")
    extractor = backbones.create(**backbone)
    level, (in_channels, stride) = list(extractor.feature_info.items())[-1]
    head = ASPPHead(
        level,
        in_channels,
        stride,
        num_classes=num_classes,
        channels=channels,
        rates=[max(1, 96 * k // stride) for k in (1, 2, 3)] if rates is None else rates,
        norm=norm,
        dropout=dropout,
    )
    return Segmenter(extractor, head, preprocessing=preprocessing, loss=loss)


class Segmenter(Model):
    """Backbone, head, and bilinear upsampling of its logits."""

    has_static_graph = True

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        head: FPNHead | ASPPHead,
        *,
        preprocessing: Preprocessing | Mapping[str, Any] | None,
        loss: Loss,
    ):
        """`head(features, sizes)` gives logits (B, K, h, w), and its `class_layer` is the name of the last layer."""
        super().__init__()
        if loss not in get_args(Loss):
            raise ValueError(f"model.loss={loss} is unknown; wanted one of {', '.join(get_args(Loss))}")
        self.backbone = backbone
        self.head = head
        self.preprocessing = Preprocessing.of(preprocessing)
        self.loss_names = loss.split("+")

    def class_layers(self) -> dict[str, int]:
        return {f"head.{self.head.class_layer}": 1}

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocessing.normalize(batch.images, batch.sizes))

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """`loss_cross_entropy` and `loss_dice`, or the one of them that was asked for."""
        assert batch.class_maps is not None, "the batch has no class maps: its data is not for this task"
        logits = F.interpolate(
            self.head(features, batch.sizes),
            size=batch.images.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        return {f"loss_{name}": getattr(losses, name)(logits, batch.class_maps) for name in self.loss_names}

    def predictions(self, features: dict[str, Tensor], batch: Batch) -> PixelScores:
        height, width = batch.images.shape[-2:]
        return PixelScores(self.head(features, batch.sizes), (height, width))
