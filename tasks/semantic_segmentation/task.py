"""`SemanticSegmentationTask`: a class for every pixel, scored by mean intersection over union."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor

from tasks.contracts import Batch, PixelScores
from tasks.harness.task import Task
from tasks.metrics.bootstrap import Interval, bracket, in_words
from tasks.metrics.semantic_segmentation import SemanticSegmentationMetric

from .original_pixels import original_class_maps
from .result import ClassMap, results

if TYPE_CHECKING:
    from tasks.data.annotations.class_maps import ClassMaps


class SemanticSegmentationTask(Task):
    """Trains and evaluates any model whose predictions are `PixelScores`."""

    monitor = "mean_iou"
    data_options = MappingProxyType({"class_maps": True})

    def build_metric(self, annotations: "ClassMaps") -> SemanticSegmentationMetric:
        return SemanticSegmentationMetric(annotations)

    def to_original(self, predictions: PixelScores, batch: Batch) -> list[Tensor]:
        return original_class_maps(predictions, batch.sizes, batch.original_sizes)

    def results(self, predictions: list[Tensor], batch: Batch) -> list[ClassMap]:
        return results(predictions, self.header.class_names)

    def report(self, numbers: dict[str, float]) -> str:
        meaning = in_words(self.intervals, self.num_images)
        return iou_table(numbers, self.intervals) + (f"\n\n {meaning}" if meaning else "")

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, SemanticSegmentationMetric)
        self.metric.write_results(folder)


def iou_table(
    numbers: dict[str, float], intervals: Mapping[str, Interval] | None = None, *, width: int = 100
) -> str:
    """The numbers in percent, classes in as many columns as fit into `width` characters, downwards."""
    sure = {name: bracket(both, scale=100) for name, both in (intervals or {}).items()}
    titles = {"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy"}
    lines = [
        f" {title:<20} {100 * numbers[name]:7.3f} %{sure.get(name, '')}" for name, title in titles.items()
    ]
    by_class = {name[4:]: value for name, value in numbers.items() if name.startswith("iou/")}
    longest = max(map(len, by_class))
    cells = [
        f"{name:<{longest}}  "
        + ("      -  " if value != value else f"{100 * value:7.3f} %" + sure.get(f"iou/{name}", ""))
        for name, value in by_class.items()
    ]
    widest = max(map(len, cells))
    cells = [f"{cell:<{widest}}" for cell in cells]
    num_rows = -(-len(cells) // max(1, (width - 1) // (widest + 3)))
    lines += ["", " IoU by class"]
    return "\n".join(lines + [" " + "   ".join(cells[row::num_rows]) for row in range(num_rows)])
