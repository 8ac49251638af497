"""`DenseDetector`: what one-stage detectors share, from feature maps to anchors and from scores to detections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor, nn

import backbones
from tasks.contracts import Batch, Detections, Model
from tasks.preprocessing import Preprocessing

from .anchors import Sizes, make_anchors
from .boxes import clip, decode, encode
from .dense_head import DenseHead, DensePredictions, predict_levels
from .losses import BoxLoss, DenseClassLoss, box_losses, check_loss
from .postprocess import DetectionSettings, postprocess
from .selection import best_pairs, take_rows


@dataclass(frozen=True, kw_only=True)
class DenseDetectionSettings(DetectionSettings):
    """Settings of every one-stage detector."""

    class_loss: DenseClassLoss
    """Of the sigmoids of the classes: "focal", "quality_focal" or "cross_entropy"."""
    box_loss: BoxLoss
    """Of boxes, "iou", "giou", "diou" or "ciou"; or of what the head says of them, "l1" or "smooth_l1"."""
    pre_nms: int = 1000
    """Best candidates of each level that go into suppression."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss("class_loss", self.class_loss, DenseClassLoss)
        check_loss("box_loss", self.box_loss, BoxLoss)
        if self.pre_nms < 1:
            raise ValueError(f"model.pre_nms={self.pre_nms} must be at least 1")


class AnchorGrid(NamedTuple):
    """Which anchors lie in each cell, as `make_anchors` takes it."""

    sizes: Sequence[Sizes]
    """Of each level."""
    ratios: Sequence[float] = (1.0,)
    """height / width."""
    offset: float = 0.0
    """Their place in the cell: 0 its upper left corner, 0.5 its middle."""


Settings = TypeVar("Settings", bound=DenseDetectionSettings)


class DenseDetector(Model, Generic[Settings]):
    """A pyramid with one head for all levels or one for each. A subclass says which anchors stand for which object and
    what is lost, and, where they differ, how boxes are encoded and what the scores are. The features are what the heads
    say of each anchor.
    """

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        heads: Sequence[DenseHead],
        preprocessing: Preprocessing,
        grid: AnchorGrid,
        settings: Settings,
    ):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.preprocessing = preprocessing
        self.num_classes = heads[0].num_classes
        self.num_anchors = heads[0].num_anchors
        self.grid = grid
        self.class_loss: DenseClassLoss = settings.class_loss
        self.box_loss: BoxLoss = settings.box_loss
        self.settings = settings

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas that take `anchors` to `boxes`."""
        return encode(boxes, anchors)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes that `deltas` make of `anchors`."""
        return decode(deltas, anchors)

    def scores(self, found: DensePredictions) -> Tensor:
        """Scores (B, A, K) in 0 … 1: each of the anchor alone, and the higher the higher its class logit is."""
        return found.logits.float().sigmoid()

    def box_losses(
        self, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, kind: BoxLoss | None = None
    ) -> Tensor:
        """`losses.box_losses` (N,) in this encoding, of the `kind` that the settings name."""
        kind = kind or self.box_loss
        return box_losses(deltas, anchors, gt_boxes, kind, encode=self.encode, decode=self.decode)

    def features(self, batch: Batch) -> DensePredictions:
        maps = list(self.backbone(self.preprocessing.normalize(batch.images, batch.sizes)).values())
        anchors = make_anchors(
            (batch.images.shape[2], batch.images.shape[3]),
            tuple((level.shape[2], level.shape[3]) for level in maps),
            tuple(self.grid.sizes),
            tuple(self.grid.ratios),
            maps[0].device,
            self.grid.offset,
        )
        return predict_levels(self.heads, maps, anchors)

    def predictions(self, features: DensePredictions, batch: Batch) -> Detections:
        found, settings = features, self.settings

        def scores_at(columns: Tensor) -> Tensor:
            quality = None if found.quality is None else found.quality.gather(1, columns)
            return self.scores(found._replace(logits=take_rows(found.logits, columns), quality=quality))

        best = self.scores(found._replace(logits=found.logits.amax(dim=2, keepdim=True)))[..., 0]
        chosen = best_pairs(best, scores_at, found.level_sizes, settings.pre_nms, settings.score_threshold)
        boxes = self.decode(chosen.take(found.deltas), found.anchors[chosen.indices])
        return postprocess(chosen, clip(boxes, batch.sizes), self.num_classes, settings)

    def class_layers(self) -> dict[str, int]:
        return {f"heads.{i}.classes": self.num_anchors for i in range(len(self.heads))}
