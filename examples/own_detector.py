"""A detector of one's own, trained for two steps: for an object stands the anchor that overlaps it most.

`python examples/own_detector.py`
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

import backbones
import tasks.data
from tasks.contracts import Batch
from tasks.data.datamodule import DataModule
from tasks.detection.boxes import decode, encode
from tasks.detection.dense_detector import AnchorGrid, DenseDetectionSettings, DenseDetector
from tasks.detection.dense_head import DenseHead, DensePredictions
from tasks.detection.losses import BoxLoss, DenseClassLoss, box_losses, dense_class_losses
from tasks.detection.matching import valid_targets
from tasks.preprocessing import Preprocessing

WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the four deltas


@dataclass(frozen=True, kw_only=True)
class OneAnchorSettings(DenseDetectionSettings):
    """Defaults; a user may set all of them, and those of every one-stage detector."""

    class_loss: DenseClassLoss = "focal"
    box_loss: BoxLoss = "giou"


class OneAnchor(DenseDetector[OneAnchorSettings]):
    """What it says of itself: how boxes are encoded, which anchor stands for an object, what is lost."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        return encode(boxes, anchors, WEIGHTS)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        return decode(deltas, anchors, WEIGHTS)

    def scores(self, found: DensePredictions) -> Tensor:
        return found.logits.float().sigmoid()

    def losses(self, features: DensePredictions, batch: Batch) -> dict[str, Tensor]:
        found = features
        objects = valid_targets(
            batch.boxes, batch.labels, batch.is_crowd
        )  # (B, G): rows that are objects, not padding
        images, rows = objects.nonzero().unbind(1)
        boxes = batch.boxes[images, rows]
        best = box_iou(boxes, found.anchors).argmax(dim=1)  # (N,) the anchor of each object
        labels = torch.full(found.logits.shape[:2], self.num_classes, device=boxes.device)  # K: background
        labels[images, best] = batch.labels[images, rows]
        count = max(1, len(boxes))
        box = box_losses(
            found.deltas[images, best],
            found.anchors[best],
            boxes,
            self.box_loss,
            encode=self.encode,
            decode=self.decode,
        )
        classes = dense_class_losses(found.logits, labels, self.class_loss)
        return {"loss_class": classes.sum() / count, "loss_box": box.sum() / count}


if __name__ == "__main__":
    pyramid = backbones.with_fpn(backbones.create("resnet18", norm="group"), channels=64)
    preprocessing = Preprocessing(short_side=None)  # the scenes have their size already
    data = DataModule(tasks.data.open("digits", num_train=8, num_val=2), preprocessing, batch_size=4)
    head = DenseHead(64, num_classes=10, num_anchors=1, layers=1, width=64, norm="group", bias=False)
    grid = AnchorGrid([(4.0 * info.stride,) for info in pyramid.feature_info.values()])
    detector = OneAnchor(pyramid, [head], preprocessing, grid, OneAnchorSettings())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for batch in data.train_dataloader():
        losses = detector.losses(detector.features(batch), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        print({name: round(loss.item(), 3) for name, loss in losses.items()})
    with torch.inference_mode():
        batch = next(iter(data.val_dataloader()))
        found = detector.eval().predictions(detector.features(batch), batch)
    print(found.boxes.shape, found.scores.shape)
