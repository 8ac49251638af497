"""Random data sets and what pycocotools, run by hand on files, says of them."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.contracts import Batch, Detections
from tasks.metrics.coco import Annotations


@dataclass
class Arrays:
    """The attributes of annotations that the metric reads."""

    class_names: list[str]
    category_ids: np.ndarray
    image_ids: np.ndarray
    offsets: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray

    def to_coco(self) -> dict:
        owners = np.repeat(self.image_ids, np.diff(self.offsets))
        return {
            "images": [{"id": int(i), "width": 200, "height": 200} for i in self.image_ids],
            "categories": [
                {"id": int(c), "name": n} for c, n in zip(self.category_ids, self.class_names, strict=True)
            ],
            "annotations": [
                {
                    "id": int(self.ids[m]),
                    "image_id": int(owners[m]),
                    "category_id": int(self.category_ids[self.labels[m]]),
                    "bbox": self.boxes[m].tolist(),
                    "area": float(self.areas[m]),
                    "iscrowd": int(self.is_crowd[m]),
                }
                for m in range(len(self.ids))
            ],
        }


def random_annotations(
    rng: np.random.Generator, num_images: int, num_classes: int, most_objects: int = 6
) -> Arrays:
    """Gapped ids in no order, sizes in all of COCO's ranges, crowds, images and classes without objects."""
    counts = rng.integers(0, most_objects + 1, num_images) * (rng.random(num_images) < 0.7)
    num_objects = int(counts.sum())
    sides = rng.choice([6.0, 20.0, 31.5, 40.0, 100.0, 130.0], (num_objects, 2))
    return Arrays(
        class_names=[f"kind {k}" for k in range(num_classes)],
        category_ids=rng.permutation(4 * num_classes)[:num_classes] + 1,
        image_ids=rng.permutation(9 * num_images + 1)[:num_images],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ids=rng.permutation(5 * num_objects + 1)[:num_objects] + 1,
        labels=rng.integers(0, max(1, num_classes - 1), num_objects),
        boxes=np.concatenate([rng.integers(0, 60, (num_objects, 2)), sides], axis=1),
        areas=sides.prod(axis=1) * rng.choice([1.0, 0.6], num_objects),
        is_crowd=rng.random(num_objects) < 0.15,
    )


def random_detections(
    rng: np.random.Generator, annotations: Annotations, image_ids: np.ndarray, most: int
) -> tuple[Detections, Batch]:
    """Half of them near objects, the rest anywhere; scores of one decimal, so with many ties; padded."""
    num_classes = len(annotations.category_ids)
    counts = rng.integers(0, most + 1, len(image_ids))
    boxes = np.zeros((len(image_ids), counts.max(initial=0) + 1, 4), np.float32)
    scores = np.zeros(boxes.shape[:2], np.float32)
    labels = np.full(boxes.shape[:2], -1)
    for i, (image, count) in enumerate(zip(image_ids, counts, strict=True)):
        corner = rng.uniform(0, 100, (count, 2))
        boxes[i, :count] = np.concatenate([corner, corner + rng.uniform(3, 120, (count, 2))], axis=1)
        labels[i, :count] = rng.integers(0, num_classes, count)
        row = int(np.flatnonzero(annotations.image_ids == image)[0])
        start, stop = annotations.offsets[row : row + 2]
        if stop > start:
            near = np.flatnonzero(rng.random(count) < 0.5)
            like = rng.integers(start, stop, len(near))
            corners = annotations.boxes[like]
            corners[:, 2:] += corners[:, :2]
            boxes[i, near] = corners + rng.integers(-3, 4, corners.shape)
            labels[i, near] = annotations.labels[like]
        scores[i, :count] = -np.sort(-np.round(rng.random(count), 1))
    return as_detections(boxes, scores, labels), as_batch(image_ids)


def as_detections(boxes, scores, labels) -> Detections:
    return Detections(
        torch.as_tensor(np.asarray(boxes, np.float32)),
        torch.as_tensor(np.asarray(scores, np.float32)),
        torch.as_tensor(np.asarray(labels, np.int64)),
    )


def as_batch(image_ids) -> Batch:
    """A batch of which only the ids mean anything."""
    num = len(image_ids)
    size = torch.full((num, 2), 200)
    ids = torch.as_tensor(np.asarray(image_ids, np.int64))
    nothing = torch.zeros(num, 0, dtype=torch.int64)
    return Batch(
        torch.zeros(num, 3, 1, 1, dtype=torch.uint8),
        size,
        size,
        ids,
        torch.zeros(num, 0, 4),
        nothing,
        nothing > 0,
    )


def by_hand(annotations: Arrays, results: Path, folder: Path) -> tuple[np.ndarray, str, np.ndarray]:
    """The twelve numbers, their printed lines, and AP by class, of files alone, as COCO's demo has it."""
    (folder / "annotations.json").write_text(json.dumps(annotations.to_coco()))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        truth = COCO(str(folder / "annotations.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluation.summarize()
    by_class = []
    for category in annotations.category_ids:
        k = evaluation.params.catIds.index(category)
        values = evaluation.eval["precision"][:, :, k, 0, 2]
        by_class.append(values[values > -1].mean() if (values > -1).any() else -1)
    return np.array(evaluation.stats), printed.getvalue(), np.array(by_class)
