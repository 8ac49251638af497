"""Results as objects of supervision, torchmetrics, FiftyOne and COCO's API: the real packages read them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import tasks
from tests.tasks.inference.small_files import CATEGORY_IDS, CLASSES, picture


@pytest.fixture(scope="module")
def found(files: dict[str, Path]) -> dict[str, Any]:
    """What each task's model finds in one picture."""
    options: dict[str, Any] = {"device": "cpu", "precision": "32-true"}
    return {task: tasks.load_predictor(path, **options)(picture(0)) for task, path in files.items()}


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_supervision_draws_and_filters(task: str, found) -> None:
    supervision = pytest.importorskip("supervision")
    objects = found[task]
    detections = objects.to_supervision()
    assert isinstance(detections, supervision.Detections) and len(detections) == len(objects) > 3
    np.testing.assert_array_equal(detections.xyxy, objects.boxes)
    np.testing.assert_array_equal(detections.confidence, objects.scores)
    assert detections["class_name"].tolist() == objects.class_names
    best = detections[detections.confidence >= objects.scores[2]]
    assert len(best) >= 3 and (best.class_id == objects.labels[: len(best)]).all()
    if task == "instance_segmentation":
        np.testing.assert_array_equal(detections.mask, objects.masks)
        annotated = supervision.MaskAnnotator().annotate(picture(0).copy(), detections)
        touched = (annotated != picture(0)).any(axis=2)
        assert touched.any() and not touched[~objects.masks.any(axis=0)].any()
    annotated = supervision.BoxAnnotator().annotate(picture(0).copy(), detections)
    assert (annotated != picture(0)).any()
    assert len(objects.above(1.0).to_supervision()) == 0


def test_supervision_classifies(found) -> None:
    supervision = pytest.importorskip("supervision")
    scores = found["classification"]
    classes = scores.to_supervision()
    assert isinstance(classes, supervision.Classifications)
    best, probability = classes.get_top_k(1)
    assert CLASSES[int(best[0])] == scores.class_names[0] and probability[0] == scores.probabilities[0]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_torchmetrics_scores_a_perfect_match_with_one(task: str, found) -> None:
    from torchmetrics.detection import MeanAveragePrecision

    kinds = ("bbox", "segm") if task == "instance_segmentation" else ("bbox",)
    objects = found[task]
    if task == "instance_segmentation":  # an empty mask matches nothing, itself included
        kept = [i for i, mask in enumerate(objects.masks) if mask.any()]
        objects = replace(
            objects,
            boxes=objects.boxes[kept],
            scores=objects.scores[kept],
            labels=objects.labels[kept],
            class_names=[objects.class_names[i] for i in kept],
            bitmaps=[objects.bitmaps[i] for i in kept],
        )
    predicted = objects.to_torchmetrics()
    assert all(isinstance(value, torch.Tensor) for value in predicted.values())
    truth = {key: value for key, value in predicted.items() if key != "scores"}
    metric = MeanAveragePrecision(iou_type=kinds, backend="pycocotools")
    metric.update([predicted], [truth])
    numbers = metric.compute()
    for kind in kinds:
        prefix = f"{kind}_" if len(kinds) > 1 else ""
        assert numbers[f"{prefix}map"] == pytest.approx(1)
    truth["boxes"] = truth["boxes"] + 20
    metric.reset()
    metric.update([predicted], [truth])
    prefix = "bbox_" if len(kinds) > 1 else ""
    assert metric.compute()[f"{prefix}map"] < 0.5


def test_coco_items(found) -> None:
    objects = found["instance_segmentation"]
    items = objects.to_coco(17, CATEGORY_IDS)
    assert {item["image_id"] for item in items} == {17}
    assert [item["category_id"] for item in items] == [CATEGORY_IDS[label] for label in objects.labels]
    assert [item["category_id"] for item in objects.to_coco(17)] == objects.labels.tolist()
    boxes = np.array([item["bbox"] for item in items])
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], objects.boxes[:, 2:], atol=1e-4)
    for item, mask in zip(items, objects.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(item["segmentation"]).astype(bool), mask)
    assert "segmentation" not in found["detection"].to_coco(1)[0]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_fiftyone_detections(task: str, found) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    objects = found[task]
    labels = objects.to_fiftyone((64, 80))
    assert isinstance(labels, fiftyone.Detections) and len(labels.detections) == len(objects) > 0
    for label, name, score, box in zip(
        labels.detections, objects.class_names, objects.scores, objects.boxes, strict=True
    ):
        x, y, w, h = np.array(label.bounding_box) * (80, 64, 80, 64)
        np.testing.assert_allclose((x, y, x + w, y + h), box, atol=1e-3)
        assert (label.label, label.confidence) == (name, pytest.approx(score))
    if task == "instance_segmentation":
        assert objects.to_fiftyone().detections[0].bounding_box == labels.detections[0].bounding_box
        for label, box, mask in zip(labels.detections, objects.boxes, objects.masks, strict=True):
            left, top = np.floor(box[:2]).clip(0).astype(int)
            inside = mask[top:, left:][: label.mask.shape[0], : label.mask.shape[1]]
            np.testing.assert_array_equal(label.mask, inside)
            assert label.mask.shape[0] <= np.ceil(box[3]) - top and label.mask.dtype == bool


def test_fiftyone_classes(found) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    label = found["classification"].to_fiftyone()
    assert (
        isinstance(label, fiftyone.Classification) and label.label == found["classification"].class_names[0]
    )
    assert int(np.argmax(label.logits)) == int(found["classification"].labels[0])
    np.testing.assert_allclose(np.exp(label.logits).sum(), 1, rtol=1e-4)
    segmentation = found["semantic_segmentation"].to_fiftyone()
    np.testing.assert_array_equal(segmentation.mask, found["semantic_segmentation"].class_map)
