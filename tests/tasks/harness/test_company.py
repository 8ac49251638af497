"""What a model says of an image is the same alone and in any batch, with every task and norm."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.contracts import Batch, Classification, Model
from tasks.data.datamodule import DataModule
from tasks.data.formats.coco import CocoData
from tasks.data.loading.collate import batch_images
from tasks.detection.views import ManyViews
from tasks.harness.task import Task
from tasks.inference.predictor import Predictor
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header, save_model
from tasks.zoo.registry import TASKS, build_model, lookup, resolved_spec

TASK = {
    "classifier": "classification", "semantic_fpn": "semantic_segmentation", "deeplabv3": "semantic_segmentation",
    "mask_rcnn": "instance_segmentation",
}  # fmt: skip
PREPROCESSING = Preprocessing(short_side=None)
BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 32, 32]}
RCNN = {"box_representation_size": 16, "anchor_sizes": [8, 16, 32, 64, 96], "rpn_post_nms_test": 30}
DENSE = {"head_layers": 1}
MODELS: dict[str, dict[str, Any]] = {
    "classifier": {}, "semantic_fpn": {"channels": 8}, "deeplabv3": {"channels": 8}, "faster_rcnn": RCNN,
    "mask_rcnn": {**RCNN, "mask_width": 8, "mask_layers": 1},
    "retinanet": {**DENSE, "anchor_sizes": [8, 16, 32, 64, 96]}, "fcos": DENSE, "yolox": {"width": 0.0625},
}  # fmt: skip
SIZES = [(64, 96), (130, 70), (60, 90), (96, 64), (33, 200), (96, 60), (64, 96)]


def random_model(name: str, norm: str) -> Model:
    """Random in every weight and statistic, so that no two places look alike to it."""
    torch.manual_seed(0)
    spec: dict[str, Any] = {"name": name, "backbone": {**BACKBONE, "norm": norm}, **MODELS[name]}
    if name not in ("classifier", "deeplabv3"):
        pyramid = "pafpn" if name == "yolox" else "fpn"
        spec["pyramid"] = {"name": pyramid, "channels": 16, **({"norm": "group"} if norm == "group" else {})}
    if norm == "group" and name in ("retinanet", "fcos", "yolox"):
        spec["head_norm"] = "group"
    if norm == "group" and name == "deeplabv3":
        spec["norm"] = "group"
    if TASK.get(name, "detection") in ("detection", "instance_segmentation"):
        spec |= {"score_threshold": 0.0, "max_detections": 20}
    model = build_model(spec, num_classes=3, preprocessing=PREPROCESSING)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(std=0.5)
    model.header = Header(
        task=TASK.get(name, "detection"),
        model=resolved_spec(spec, model),
        class_names=["a", "b", "c"],
        category_ids=[1, 2, 3],
        preprocessing=PREPROCESSING.to_dict(),
    )
    return model.eval()


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


class Recorder:
    """Stands for a metric: keeps the predictions of each image."""

    def __init__(self) -> None:
        self.found: dict[int, list[Tensor]] = {}

    def update(self, predictions: Any, batch: Batch) -> None:
        if isinstance(predictions, list):  # class maps
            values = [[class_map] for class_map in predictions]
        elif isinstance(predictions, Classification):
            values = [[row] for row in predictions.logits]
        else:
            parts = (predictions.boxes, predictions.scores, predictions.labels, predictions.masks)
            values = list(zip(*(part for part in parts if part is not None), strict=True))
        self.found |= dict(zip(batch.image_ids.tolist(), values, strict=True))


def scored(model: Model, batches: list[Batch]) -> dict[int, list[Tensor]]:
    """Every image's predictions as the metric of an evaluation gets them."""
    task: Task = lookup(TASKS, "task", model.header.task)(model)
    task.metric = recorder = Recorder()  # type: ignore[assignment]
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            task.test_step(batch, number)
    return recorder.found


def alone_and_together(preprocessing: Preprocessing = PREPROCESSING) -> tuple[list[Batch], list[Batch]]:
    images = pictures()
    together = batch_images(images, preprocessing)
    alone = [batch_images([image], preprocessing) for image in images]
    for number, batch in enumerate(alone):
        batch.image_ids = torch.tensor([number])
    return alone, [together]


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_scored_alike_alone_and_in_a_batch(name: str, norm: str) -> None:
    model = random_model(name, norm)
    alone, together = alone_and_together()
    found, expected = scored(model, together), scored(model, alone)
    assert len(found) == len(expected) == len(SIZES)
    for number, values in expected.items():
        torch.testing.assert_close(found[number], values, atol=1e-4, rtol=1e-4)
    # What pads an image does change what is said of it, so that there was something to prove.
    model_sees = model.features(together[0].select(2)), model.features(alone[2])
    first = [next(iter(seen.values())) if isinstance(seen, dict) else None for seen in model_sees]
    if None not in first:
        height, width = (min(*sides) for sides in zip(first[0].shape[-2:], first[1].shape[-2:], strict=True))
        assert (first[0][..., :height, :width] - first[1][..., :height, :width]).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["frozen", "group"])
@pytest.mark.parametrize("name", MODELS)
def test_a_predictor_says_the_same_of_a_picture_alone_and_in_a_list(name: str, norm: str) -> None:
    predictor = Predictor(random_model(name, norm), device="cpu", precision="32-true")
    images = pictures()
    for one, image in zip(predictor(images), images, strict=True):
        for key, value in vars(predictor(image)).items():
            if isinstance(value, np.ndarray) and value.dtype != object:
                np.testing.assert_allclose(getattr(one, key), value, atol=1e-4, rtol=1e-4)


def test_views_of_an_image_do_not_depend_on_the_batch() -> None:
    model = ManyViews(random_model("retinanet", "group"), scales=(0.7, 1.0, 1.5), flip=True)
    alone, together = alone_and_together()
    found, expected = scored(model, together), scored(model, alone)
    for number, values in expected.items():
        torch.testing.assert_close(found[number], values, atol=1e-4, rtol=1e-4)


def test_parts_of_a_batch_are_what_their_images_are_alone() -> None:
    alone, (together,) = alone_and_together()
    together.class_maps = torch.arange(len(SIZES), dtype=torch.uint8).view(-1, 1, 1) * torch.ones_like(
        together.images[:, 0]
    )
    parts = together.alike()
    assert [rows for rows, _ in parts] == [[0, 2, 6], [1], [3, 5], [4]]
    for rows, part in parts:
        assert part.padded_sizes is None and part.alike()[0][1] is part
        assert part.images.is_contiguous(memory_format=torch.channels_last)
        assert part.class_maps is not None and part.class_maps.unique().tolist() == rows
        for row, image, size in zip(rows, part.images, part.sizes, strict=True):
            assert torch.equal(image, alone[row].images[0]) and size.tolist() == list(SIZES[row])
    even = batch_images([pictures()[0]] * 2, PREPROCESSING)
    assert even.padded_sizes is None and even.alike()[0][1] is even


def write_coco(root: Path, shapes: list[tuple[int, int]]) -> None:
    """One object in each image; images are numbered from 1."""
    generator = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    images, objects = [], []
    for number, (height, width) in enumerate(shapes, start=1):
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        box = {"bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
        objects.append({"id": number, "image_id": number, "category_id": 1 + number % 3, **box})
    categories = [{"id": number, "name": name} for number, name in enumerate("abc", start=1)]
    content = json.dumps({"images": images, "annotations": objects, "categories": categories})
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(content)
        for number, shape in enumerate(shapes, start=1):
            pixels = generator.integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")


def test_evaluation_shows_images_that_are_padded_alike_together(tmp_path: Path) -> None:
    """With any number of images in a batch the numbers are the same, and few batches are in parts."""
    shapes = [(64, 96), (96, 64), (60, 90), (96, 60), (64, 96), (90, 60)]
    write_coco(tmp_path / "data", shapes)
    data = DataModule(CocoData(tmp_path / "data"), PREPROCESSING, batch_size=3)
    batches = list(data.val_dataloader())
    assert [batch.padded_sizes for batch in batches] == [None, None]
    assert [batch.image_ids.tolist() for batch in batches] == [[1, 3, 5], [2, 4, 6]]
    assert [i for batch in data.predict_dataloader() for i in batch.image_ids.tolist()] == [1, 2, 3, 4, 5, 6]
    model = random_model("faster_rcnn", "group")
    save_model(tmp_path / "model.safetensors", model, model.header)
    found = []
    for size in (1, 3, 4, 6):
        words = [f"checkpoint={tmp_path / 'model.safetensors'}", "data=coco", f"data.root={tmp_path / 'data'}",
                 f"loader.batch_size={size}", "precision=32-true", "trainer.accelerator=cpu",
                 f"run_dir={tmp_path / str(size)}"]  # fmt: skip
        evaluate(compose("evaluate", words))
        found.append(json.loads((tmp_path / str(size) / "detections.json").read_text()))
        numbers = json.loads((tmp_path / str(size) / "metrics.json").read_text())
        assert numbers == pytest.approx(
            json.loads((tmp_path / "1" / "metrics.json").read_text()), nan_ok=True
        )
    for other in found[1:]:
        assert len(other) == len(found[0]) == 20 * 6
        for one, two in zip(found[0], other, strict=True):
            assert one["image_id"] == two["image_id"] and one["category_id"] == two["category_id"]
            np.testing.assert_allclose(one["bbox"], two["bbox"], atol=1e-3)
            np.testing.assert_allclose(one["score"], two["score"], atol=1e-4)
