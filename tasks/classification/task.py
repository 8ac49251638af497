"""`ClassificationTask`: images sorted into classes, scored by how often the first guess is right."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tasks.contracts import Batch, Classification, Model
from tasks.harness.task import Task
from tasks.metrics.bootstrap import Interval, bracket, in_words
from tasks.metrics.classification import ClassificationMetric

from .mixing import Mixing, check_sizes
from .result import ClassScores, predicted_results

if TYPE_CHECKING:
    from tasks.data.annotations.image_labels import ImageLabels


class ClassificationTask(Task):
    """Trains and evaluates any model whose predictions are a `Classification`."""

    monitor = "top1"
    data_options = MappingProxyType({"classes": True})

    def __init__(self, model: Model, *, mixup: float = 0.0, cutmix: float = 0.0, **options: Any) -> None:
        """`mixup` and `cutmix` are those of `Mixing`, for training alone; the rest is `Task`'s."""
        super().__init__(model, **options)
        self.mixing = Mixing(mixup=mixup, cutmix=cutmix)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.mixing and self.trainer.training:
            check_sizes(batch)  # here, because on the device it would have to be waited for
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        if self.mixing:
            # Where the batch stands in the run decides, so that a run that goes on mixes as if it had not stopped.
            data = getattr(self.trainer.train_dataloader, "dataset", None)
            seed = (getattr(data, "seed", 0), self.current_epoch, batch_index, self.global_rank)
            batch = self.mixing(batch, len(self.header.class_names), seed)
        return super().training_step(batch, batch_index)

    def build_metric(self, annotations: "ImageLabels") -> ClassificationMetric:
        return ClassificationMetric(annotations)

    def to_original(self, predictions: Classification, batch: Batch) -> Classification:
        return predictions

    def results(self, predictions: Classification, batch: Batch) -> list[ClassScores]:
        return predicted_results(predictions, batch, self.header.class_names)

    def report(self, numbers: dict[str, float]) -> str:
        meaning = in_words(self.intervals, self.num_images)
        return accuracy_table(numbers, self.intervals) + (f"\n\n {meaning}" if meaning else "")

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, ClassificationMetric)
        self.metric.write_results(folder)


def accuracy_table(
    numbers: dict[str, float], intervals: Mapping[str, Interval] | None = None, *, num_worst: int = 10
) -> str:
    """The accuracies in percent, and the classes that are hardest: all of them where there are few."""
    sure = {name: bracket(both, scale=100) for name, both in (intervals or {}).items()}
    titles = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_class_accuracy": "mean over classes"}
    lines = [
        f" {title:<20} {100 * numbers[name]:7.3f} %{sure.get(name, '')}" for name, title in titles.items()
    ]
    known = {k[9:]: v for k, v in numbers.items() if k.startswith("accuracy/") and v == v}
    worst = sorted(known, key=lambda name: known[name])[:num_worst]
    lines += ["", " accuracy by class" + (f", the {num_worst} lowest" if len(known) > num_worst else "")]
    lines += [f" {name:<20} {100 * known[name]:7.3f} %{sure.get(f'accuracy/{name}', '')}" for name in worst]
    return "\n".join(lines)
