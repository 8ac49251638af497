"""`InstanceSegmentationTask`: boxes and masks scored as COCO does."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tasks.contracts import Batch, Detections
from tasks.harness.task import Task
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.metrics.run_lengths import bitmaps
from tasks.metrics.table import coco_table
from tasks.visualization.boxes import Shown
from tasks.visualization.masks import draw_instances

MIN_SCORE = 0.5  # of what is drawn while training


class InstanceSegmentationTask(Task):
    """Trains and evaluates any model whose predictions are `Detections` with masks."""

    monitor = "mask_AP"
    metric_arguments = ("backend",)
    data_options = MappingProxyType({"masks": True})

    def build_metric(self, annotations: Any) -> InstanceSegmentationMetric:
        return InstanceSegmentationMetric(annotations, **self.metric_options)

    def to_original(self, predictions: Detections, batch: Batch) -> Detections:
        return predictions.to_original(batch.sizes, batch.original_sizes)

    def draw(self, image: np.ndarray, predictions: Detections, index: int) -> np.ndarray:
        assert predictions.masks is not None
        shown = predictions.scores[index] >= MIN_SCORE
        boxes = predictions.boxes[index, shown].float().cpu()
        return draw_instances(
            image,
            list(bitmaps(predictions.masks[index, shown], boxes, *image.shape[:2])),
            boxes.numpy(),
            predictions.labels[index, shown].cpu().numpy(),
            predictions.scores[index, shown].float().cpu().numpy(),
            self.header.class_names,
        )

    def shown(self, predictions: Detections, index: int, size: tuple[int, int]) -> Shown:
        assert predictions.masks is not None
        clear = predictions.scores[index] >= MIN_SCORE
        boxes = predictions.boxes[index, clear].float().cpu()
        labels = predictions.labels[index, clear].cpu().numpy()
        class_map = np.full(size, -1)
        masks = list(bitmaps(predictions.masks[index, clear], boxes, *size))
        for mask, label in zip(reversed(masks), labels[::-1], strict=True):  # the best on top
            area = class_map[mask.top : mask.top + len(mask.bitmap), mask.left :][:, : mask.bitmap.shape[1]]
            area[mask.bitmap.astype(bool)] = label
        return Shown(boxes.numpy(), labels, predictions.scores[index, clear].float().cpu().numpy(), class_map)

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, InstanceSegmentationMetric)
        self.metric.write_results(folder)

    def report(self, numbers: dict[str, float]) -> str:
        boxes = {name: value for name, value in numbers.items() if not name.startswith("mask_")}
        masks = {name[5:]: value for name, value in numbers.items() if name.startswith("mask_")}
        assert isinstance(self.metric, InstanceSegmentationMetric)
        backend = self.metric.coco.backend_used
        return f"Boxes\n{coco_table(boxes)}\n\nMasks\n{coco_table(masks)}\n\nScored by {backend}"
