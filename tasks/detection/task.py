"""`DetectionTask`: boxes scored as COCO does."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks.contracts import Batch, Detections
from tasks.harness.drawing import Shown, draw_detections
from tasks.harness.task import Task
from tasks.metrics.coco import CocoMetric
from tasks.metrics.table import coco_table


class DetectionTask(Task):
    """Trains and evaluates any model whose predictions are `Detections`."""

    monitor = "AP"

    def build_metric(self, annotations: Any) -> CocoMetric:
        return CocoMetric(annotations)

    def to_original(self, predictions: Detections, batch: Batch) -> Detections:
        return predictions.to_original(batch.sizes, batch.original_sizes)

    def draw(self, image: np.ndarray, predictions: Detections, index: int) -> np.ndarray:
        found = predictions.labels[index] >= 0
        return draw_detections(
            image,
            predictions.boxes[index, found].float().cpu().numpy(),
            predictions.labels[index, found].cpu().numpy(),
            predictions.scores[index, found].float().cpu().numpy(),
            self.header.class_names,
        )

    def shown(self, predictions: Detections, index: int, size: tuple[int, int]) -> Shown:
        found = predictions.labels[index] >= 0
        return Shown(
            predictions.boxes[index, found].float().cpu().numpy(),
            predictions.labels[index, found].cpu().numpy(),
            predictions.scores[index, found].float().cpu().numpy(),
        )

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, CocoMetric)
        self.metric.write_results(folder / "detections.json")

    def report(self, numbers: dict[str, float]) -> str:
        return coco_table(numbers)
