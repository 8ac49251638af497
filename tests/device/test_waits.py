"""How often one step, prediction or update of every model waits for the GPU: the same for two images and for eight,
and for sizes never seen before. No operator of any has operands on two devices, which would raise.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tasks.contracts import Batch, Model
from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.zoo.model_file import Header
from tasks.zoo.registry import TASKS, lookup, resolved_spec
from tests.device.simulated_cuda import SimulatedCuda
from tests.device.small_models import MODELS, NUM_CLASSES, PREPROCESSING, make_batch, small_model

# Of losses with their gradients: a network waits where it must know how many boxes match, or stay.
STEP = {
    "classifier": 0, "semantic_fpn": 0, "deeplabv3": 0,
    "faster_rcnn": 0,
    "mask_rcnn": 1,  # how many boxes have masks
    "retinanet": 1, "fcos": 1, "gfl": 1, "yolox": 1,  # how many anchors have objects
}  # fmt: skip
PREDICTION = {
    "classifier": 0, "semantic_fpn": 0, "deeplabv3": 0,
    "faster_rcnn": 0,
    "mask_rcnn": 1,  # how many detections there are
    "retinanet": 0, "fcos": 0, "gfl": 0, "yolox": 0,
}  # fmt: skip
TASK = {
    "classifier": "classification", "semantic_fpn": "semantic_segmentation", "deeplabv3": "semantic_segmentation",
    "mask_rcnn": "instance_segmentation",
}  # fmt: skip
SHAPES = [(2, 96, 128), (8, 96, 128), (2, 64, 160), (8, 128, 96), (2, 128, 96)]
"""Images, height and width of batches, one after another."""


def name_of(kind: str) -> str:
    return kind.split()[0]


def task_of(kind: str) -> str:
    return TASK.get(name_of(kind), "detection")


def on_cuda(kind: str, cuda: SimulatedCuda) -> Model:
    """The model on the device, after one batch of a size of its own: constants that it keeps are there."""
    model = small_model(kind).to("cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        batch = make_batch(2, 32, 64).to("cuda")
        model.losses(model.features(batch), batch)
        model(batch)
    return model


def batches(cuda: SimulatedCuda) -> Iterator[tuple[str, Batch]]:
    """A batch of each of `SHAPES` on the device, without a wait, and its name; the log is empty then."""
    for num_images, height, width in SHAPES:
        cuda.clear()
        batch = make_batch(num_images, height, width).to("cuda")
        assert cuda.total() == 0, cuda
        yield f"{num_images} images of {height} x {width}", batch


@pytest.mark.parametrize("kind", MODELS)
def test_a_training_step(kind: str, cuda: SimulatedCuda) -> None:
    model = on_cuda(kind, cuda).train()
    for name, batch in batches(cuda):
        with torch.autocast("cuda", torch.bfloat16):
            losses = model.losses(model.features(batch), batch)
        torch.stack(list(losses.values())).sum().backward()
        assert cuda.total() <= STEP[name_of(kind)], f"{name}: {cuda}"
        assert all(loss.isfinite().item() for loss in losses.values())
    assert all(p.grad is None or p.grad.is_cuda for p in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_losses_and_predictions_of_validation(kind: str, cuda: SimulatedCuda) -> None:
    model = on_cuda(kind, cuda).eval()
    for name, batch in batches(cuda):
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            features = model.features(batch)
            model.losses(features, batch)
            assert cuda.total() <= STEP[name_of(kind)], f"{name}, losses: {cuda}"
            cuda.clear()
            model.predictions(features, batch)
        assert cuda.total() <= PREDICTION[name_of(kind)], f"{name}, predictions: {cuda}"


def annotations_of(task: str, batch: Batch) -> Any:
    """What a metric wants to know of the images of `batch`."""
    ids = batch.image_ids.numpy()
    names = [str(k) for k in range(NUM_CLASSES)]
    files = np.array([b"a"] * len(ids))
    if task == "classification":
        assert batch.class_ids is not None
        return ImageLabels(names, np.arange(NUM_CLASSES), ids, batch.class_ids.cpu().numpy(), files)
    sizes = batch.original_sizes.tolist()
    if task == "semantic_segmentation":
        return ClassMaps(names, np.arange(NUM_CLASSES), ids, files, lambda i: np.ones(sizes[i], np.uint8))
    return NoObjects(names, ids, np.array(sizes))


class NoObjects:
    """A split for detection or instance segmentation without an object in it."""

    def __init__(self, class_names: list[str], image_ids: np.ndarray, sizes: np.ndarray) -> None:
        self.class_names, self.image_ids, self.sizes = class_names, image_ids, sizes
        self.category_ids = np.arange(len(class_names))
        self.offsets = np.zeros(len(image_ids) + 1, np.int64)
        self.ids = self.labels = np.zeros(0, np.int64)
        self.boxes, self.areas = np.zeros((0, 4)), np.zeros(0)
        self.is_crowd = np.zeros(0, bool)

    def segmentation(self, index: int) -> Any:
        raise IndexError(index)


@pytest.mark.parametrize("kind", ["classifier", "semantic_fpn", "faster_rcnn", "mask_rcnn"])
def test_a_metric_waits_once_a_batch(kind: str, cuda: SimulatedCuda) -> None:
    model, kind_of_task = on_cuda(kind, cuda).eval(), lookup(TASKS, "task", task_of(kind))
    model.header = header(kind, model)
    for name, batch in batches(cuda):
        metric = kind_of_task(model).build_metric(annotations_of(task_of(kind), batch))
        with torch.no_grad():
            predictions = kind_of_task(model).to_original(model(batch), batch)
        cuda.clear()
        metric.update(predictions, batch)
        assert cuda.total() <= 1, f"{name}: {cuda}"
        metric.compute()


def header(kind: str, model: Model) -> Header:
    spec = {"name": name_of(kind)}
    return Header(
        task=task_of(kind),
        model=resolved_spec(spec, model),
        class_names=[str(k) for k in range(NUM_CLASSES)],
        category_ids=list(range(NUM_CLASSES)),
        preprocessing=PREPROCESSING.to_dict(),
    )
