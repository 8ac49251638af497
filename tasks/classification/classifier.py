"""An image classifier on any backbone: `classifier` builds it, `Classifier` is the network.

Legend, beside that of tasks/contracts.py:
    map     (B, C, h, w), the last (coarsest) feature map of the backbone
    pooled  (B, C), its mean over the cells of the valid image
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from tasks.contracts import Batch, Classification, Model
from tasks.distributed import loss_normalizer
from tasks.preprocessing import Preprocessing


def classifier(
    *,
    num_classes: int,
    backbone: Mapping[str, Any],
    pyramid: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> "Classifier":
    """A classifier from plain values.

    Args:
        num_classes: K.
        backbone: what `backbones.create` takes, such as `{"name": "resnet50", "norm": "frozen"}`.
        pyramid: what `backbones.create_pyramid` takes; None for none, as classifiers are usually built.
        preprocessing: how pixels reach the network, or its values; None for the defaults.
        label_smoothing: share of each label that is spread evenly over all classes, from 0 up to below 1
            (Rethinking the Inception Architecture, section 7).
        class_weights: K factors of the loss, by the true class; None for 1 each.
        dropout: share of the pooled features set to zero in training, from 0 up to below 1.

    Raises:
        ValueError: an unknown backbone, pyramid or option, or a value out of its range.
    """
    for name, share in (("label_smoothing", label_smoothing), ("dropout", dropout)):
        if not 0 <= share < 1:
            raise ValueError(f"model.{name}={share} must be at least 0 and below 1")
    if class_weights is not None and (
        len(class_weights) != num_classes or min(class_weights) < 0 or max(class_weights) <= 0
    ):
        raise ValueError(
            f"model.class_weights={list(class_weights)} must be {num_classes} numbers, one per class, none "
            "negative and not all 0"
        )
    extractor = backbones.create(**backbone)
    if pyramid is not None:
        extractor = backbones.create_pyramid(extractor, **pyramid)
    return Classifier(
        extractor,
        num_classes=num_classes,
        preprocessing=Preprocessing.of(preprocessing),
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        dropout=dropout,
    )


class Classifier(Model):
    """Backbone, mean over the last map, one linear layer."""

    has_static_graph = True

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        label_smoothing: float,
        class_weights: Sequence[float] | None,
        dropout: float,
    ):
        super().__init__()
        self.backbone = backbone
        self.level, (channels, self.stride) = list(backbone.feature_info.items())[-1]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)
        self.preprocessing = preprocessing
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocessing.normalize(batch.images, batch.sizes))

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """`loss_class`: cross-entropy with the true class, or with the shares of a mixed image."""
        target = batch.class_ids if batch.class_weights is None else batch.class_weights
        assert target is not None, "the batch has no classes: its data is not for classification"
        logits = self.logits(features, batch.sizes)
        return {"loss_class": class_loss(logits, target, self.class_weights, self.label_smoothing)}

    def class_layers(self) -> dict[str, int]:
        return {"head": 1}

    def predictions(self, features: dict[str, Tensor], batch: Batch) -> Classification:
        return Classification(self.logits(features, batch.sizes))

    def logits(self, features: dict[str, Tensor], sizes: Tensor) -> Tensor:
        """float32 (B, K)."""
        pooled = masked_mean(features[self.level], sizes, self.stride)
        return self.head(self.dropout(pooled)).float()


def class_loss(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Scalar: cross-entropy of `logits` (B, K), the mean over the batch by the weights (K,) of the true classes.

    `target` is the class of each image, int64 (B,), or its share of each class, float32 (B, K): with all of
    it on one class both are the same. 0 when no image has a weight.
    """
    if class_weights is None:
        return F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    total = F.cross_entropy(
        logits, target, weight=class_weights, label_smoothing=label_smoothing, reduction="sum"
    )
    # torch divides by the weights for classes but by B for shares, where a mixed batch would weigh differently.
    count = (class_weights[target] if target.ndim == 1 else target @ class_weights).sum()
    return (count > 0) * total / loss_normalizer(count, least=1e-6)


def masked_mean(maps: Tensor, sizes: Tensor, stride: int) -> Tensor:
    """float32 (B, C): the mean of `maps` (B, C, h, w) over the cells that see some of each image's valid
    (height, width) in `sizes` (B, 2), so that padding a batch leaves the answer for an image alone."""
    height, width = maps.shape[-2:]
    cells = (sizes + stride - 1).div(stride, rounding_mode="floor")
    rows = torch.arange(height, device=maps.device) < cells[:, 0, None]
    columns = torch.arange(width, device=maps.device) < cells[:, 1, None]
    mask = rows[:, :, None] & columns[:, None, :]
    total = (maps * mask[:, None]).sum(dim=(2, 3), dtype=torch.float32)
    return total / mask.sum(dim=(1, 2))[:, None]
