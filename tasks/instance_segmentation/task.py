"""`InstanceSegmentationTask`: boxes and masks scored as COCO does."""

from pathlib import Path
from types import MappingProxyType

from tasks.contracts import Batch, Detections
from tasks.harness.task import Task
from tasks.metrics.bootstrap import in_words
from tasks.metrics.coco import MaskAnnotations
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.metrics.table import coco_table

from .result import Instances, results


class InstanceSegmentationTask(Task):
    """Trains and evaluates any model whose predictions are `Detections` with masks."""

    monitor = "mask_AP"
    metric_arguments = ("backend", "max_detections")
    data_options = MappingProxyType({"masks": True})

    def build_metric(self, annotations: MaskAnnotations) -> InstanceSegmentationMetric:
        return InstanceSegmentationMetric(annotations, **self.metric_options)

    def to_original(self, predictions: Detections, batch: Batch) -> Detections:
        return predictions.to_original(batch.sizes, batch.original_sizes)

    def results(self, predictions: Detections, batch: Batch) -> list[Instances]:
        return results(predictions, batch, self.header.class_names)

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, InstanceSegmentationMetric)
        self.metric.write_results(folder)

    def report(self, numbers: dict[str, float]) -> str:
        boxes = {name: value for name, value in numbers.items() if not name.startswith("mask_")}
        masks = {name[5:]: value for name, value in numbers.items() if name.startswith("mask_")}
        assert isinstance(self.metric, InstanceSegmentationMetric)
        of_masks = {name[5:]: both for name, both in self.intervals.items() if name.startswith("mask_")}
        meaning = in_words(self.intervals, self.num_images)
        return (
            f"Boxes\n{coco_table(boxes, self.intervals)}\n\nMasks\n{coco_table(masks, of_masks)}\n\n"
            f"Scored by {self.metric.coco.backend_used}" + (f"\n{meaning}" if meaning else "")
        )
