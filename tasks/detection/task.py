"""`DetectionTask`: boxes scored as COCO does."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.contracts import Batch, Detections, Model
from tasks.harness.task import Task
from tasks.metrics.bootstrap import in_words
from tasks.metrics.coco import Annotations, CocoMetric
from tasks.metrics.table import coco_table

from .gfl import GFL
from .result import Objects, results
from .yolox import YOLOX


class DetectionTask(Task):
    """Trains and evaluates any model whose predictions are `Detections`."""

    monitor = "AP"
    metric_arguments = ("backend", "max_detections")

    def __init__(
        self,
        model: Model,
        *,
        l1_final_fraction: float = 0.05,
        atss_first_fraction: float = 1 / 3,
        **options: Any,
    ) -> None:
        """`l1_final_fraction` is the share of the steps at the end in which a YOLOX loses L1 as well
        (15 of the paper's 300 epochs), `atss_first_fraction` that at the beginning in which a task-aligned GFL warms
        up (4 of TOOD's 12 epochs); other detectors have no such times. The rest is `Task`'s.
        """
        for name, share in (
            ("l1_final_fraction", l1_final_fraction),
            ("atss_first_fraction", atss_first_fraction),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"task.{name}={share} must be a share of the steps, between 0 and 1")
        super().__init__(model, **options)
        self.l1_final_fraction = l1_final_fraction
        self.atss_first_fraction = atss_first_fraction

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        if isinstance(self.model, YOLOX):
            self.model.with_l1 = self._share_done() >= 1 - self.l1_final_fraction
        elif isinstance(self.model, GFL):
            self.model.is_warming_up = self._share_done() < self.atss_first_fraction
        return super().training_step(batch, batch_index)

    def _share_done(self) -> float:
        """The share of the training's steps that lie behind it, 0 where they have no known end."""
        return self.trainer.global_step / self.trainer.estimated_stepping_batches

    def build_metric(self, annotations: Annotations) -> CocoMetric:
        return CocoMetric(annotations, **self.metric_options)

    def to_original(self, predictions: Detections, batch: Batch) -> Detections:
        return predictions.to_original(batch.sizes, batch.original_sizes)

    def results(self, predictions: Detections, batch: Batch) -> list[Objects]:
        return results(predictions, self.header.class_names)

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, CocoMetric)
        self.metric.write_results(folder / "detections.json")

    def report(self, numbers: dict[str, float]) -> str:
        assert isinstance(self.metric, CocoMetric)
        table = coco_table(numbers, self.intervals)
        meaning = in_words(self.intervals, self.num_images)
        return f"{table}\n\nScored by {self.metric.backend_used}" + (f"\n{meaning}" if meaning else "")
