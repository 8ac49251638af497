"""A task of one's own: how many objects are in a picture, on any backbone: `python examples/own_task.py`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

import backbones
import tasks.data
from tasks.contracts import Batch, Metric, Model
from tasks.data.datamodule import DataModule
from tasks.distributed import all_gather_objects, loss_normalizer
from tasks.harness.task import Task
from tasks.preprocessing import Preprocessing
from tasks.visualization.result import DrawablePrediction
from tasks.zoo.model_file import Header


class Counter(Model):
    """The last map of a backbone as a density: the sum over its cells is the number of objects."""

    def __init__(self, backbone: backbones.FeatureExtractor, preprocessing: Preprocessing):
        super().__init__()
        self.backbone = backbone
        self.preprocessing = preprocessing
        self.density = nn.Conv2d(list(backbone.feature_info.values())[-1].channels, 1, 1)

    def features(self, batch: Batch) -> Tensor:
        *_, last = self.backbone(self.preprocessing.normalize(batch.images, batch.sizes)).values()
        return nn.functional.softplus(self.density(last)).sum(dim=(1, 2, 3))  # (B,) objects

    def losses(self, features: Tensor, batch: Batch) -> dict[str, Tensor]:
        true = (batch.labels >= 0).sum(dim=1)  # rows of padding have the label -1
        errors = nn.functional.smooth_l1_loss(features.float(), true.float(), reduction="sum")
        return {"loss_count": errors / loss_normalizer(torch.tensor(len(batch), device=true.device))}

    def predictions(self, features: Tensor, batch: Batch) -> Tensor:
        return features.float()


class CountMetric(Metric):
    """The mean error over the images of all ranks."""

    def __init__(self, annotations):
        ids, starts = annotations.image_ids, annotations.offsets
        self.true = dict(zip(ids.tolist(), np.diff(starts).tolist(), strict=True))
        self.reset()

    def reset(self) -> None:
        self.found: dict[int, float] = {}

    def update(self, predictions: Tensor, batch: Batch) -> None:
        self.found |= dict(zip(batch.image_ids.tolist(), predictions.tolist(), strict=True))

    def compute(self) -> dict[str, float]:
        found = {image: count for rank in all_gather_objects(self.found) for image, count in rank.items()}
        errors = [abs(count - self.true[image]) for image, count in sorted(found.items())]
        return {"accuracy": -sum(errors) / len(errors)}  # higher is better, as `Task.monitor` must be


@dataclass
class Count:
    """What is said of one picture."""

    number: float

    def draw(self, image: np.ndarray) -> np.ndarray:
        return image

    def to_drawable(self) -> DrawablePrediction:
        return DrawablePrediction(caption=f"{self.number:.1f} objects")

    def to_dict(self) -> dict[str, float]:
        return {"count": self.number}

    def summary(self) -> str:
        return f"{self.number:.1f} objects"


class CountingTask(Task):
    """What differs from other tasks; training, ranks, checkpoints and logging are the harness's."""

    monitor = "accuracy"

    def build_metric(self, annotations) -> CountMetric:
        return CountMetric(annotations)

    def to_original(self, predictions: Tensor, batch: Batch) -> Tensor:
        return predictions  # a number has no pixels

    def results(self, predictions: Tensor, batch: Batch) -> list[Count]:
        return [Count(number) for number in predictions.tolist()]

    def report(self, numbers: dict[str, float]) -> str:
        return f" mean error {-numbers['accuracy']:.2f} objects"

    def write_results(self, folder: Path) -> None:
        assert isinstance(self.metric, CountMetric)
        (folder / "counts.json").write_text(json.dumps(self.metric.found))


if __name__ == "__main__":
    pl.seed_everything(0, verbose=False)
    data = DataModule(
        tasks.data.open("digits", num_train=64, num_val=8), Preprocessing(short_side=None), batch_size=8
    )
    model = Counter(backbones.create("resnet18", norm="group"), data.preprocessing)
    model.header = Header(
        task="counting",
        model={},
        class_names=["object"],
        category_ids=[1],
        preprocessing=data.preprocessing.to_dict(),
    )
    task = CountingTask(model)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    trainer = pl.Trainer(
        max_steps=steps, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.fit(task, datamodule=data)
    trainer.validate(task, datamodule=data)
    print(task.report(task.numbers))
