"""`DenseDetector`: what one-stage detectors share, from feature maps to anchors and from scores to detections."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

import backbones
from tasks.contracts import Batch, Detections, Model
from tasks.preprocessing import Preprocessing

from .anchors import Sizes, make_anchors
from .boxes import clip
from .dense_head import DenseHead, DensePredictions, predict_levels
from .losses import BoxLoss, ClassLoss, check_losses
from .postprocess import DenseSelection, best_of_each_level, detect


class DenseDetector(Model):
    """A pyramid with one head for all levels or one for each. A subclass says how boxes are encoded, which
    anchors stand for which object, and what is lost.

    Anchors have `anchor_sizes` on each level and lie in their cells as `anchor_offset` says (`make_anchors`).
    """

    def __init__(
        self,
        backbone: backbones.FeatureExtractor,
        heads: Sequence[DenseHead],
        preprocessing: Preprocessing,
        *,
        anchor_sizes: Sequence[Sizes],
        anchor_ratios: Sequence[float] = (1.0,),
        anchor_offset: float = 0.0,
        class_loss: ClassLoss,
        box_loss: BoxLoss,
        selection: DenseSelection,
    ):
        super().__init__()
        check_losses(class_loss, box_loss)
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.preprocessing = preprocessing
        self.num_classes = heads[0].num_classes
        self.num_anchors = heads[0].num_anchors
        self.anchor_sizes = tuple(anchor_sizes)
        self.anchor_ratios = tuple(anchor_ratios)
        self.anchor_offset = anchor_offset
        self.class_loss: ClassLoss = class_loss
        self.box_loss: BoxLoss = box_loss
        self.selection = selection

    @abstractmethod
    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Deltas that take `anchors` to `boxes`."""

    @abstractmethod
    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes that `deltas` make of `anchors`."""

    @abstractmethod
    def scores(self, found: DensePredictions) -> Tensor:
        """Scores (B, A, K) in 0 … 1."""

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return self.backbone(self.preprocessing.normalize(batch.images, batch.sizes))

    def dense_predictions(self, features: dict[str, Tensor], batch: Batch) -> DensePredictions:
        """What the heads say of each anchor."""
        maps = list(features.values())
        anchors = make_anchors(
            (batch.images.shape[2], batch.images.shape[3]),
            tuple((level.shape[2], level.shape[3]) for level in maps),
            self.anchor_sizes,
            self.anchor_ratios,
            maps[0].device,
            self.anchor_offset,
        )
        return predict_levels(self.heads, maps, anchors)

    def predictions(self, features: dict[str, Tensor], batch: Batch) -> Detections:
        found = self.dense_predictions(features, batch)
        scores = self.scores(found)
        threshold, most = self.selection.score_threshold, self.selection.pre_nms
        chosen = best_of_each_level(scores, threshold, found.level_sizes, most)
        images, labels, indices = chosen
        boxes = self.decode(found.deltas[images, indices], found.anchors[indices])
        return detect(
            chosen,
            clip(boxes, batch.sizes[images]),
            scores[images, indices, labels],
            len(batch),
            self.num_classes,
            self.selection,
        )

    def class_layers(self) -> dict[str, int]:
        return {f"heads.{i}.classes": self.num_anchors for i in range(len(self.heads))}
