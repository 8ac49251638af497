"""What is to be reported, from a metric that has seen all predictions, or from the files that a run has left."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions, RunLengths
from tasks.metrics.classification import ClassificationMetric
from tasks.metrics.coco import CocoMetric
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.metrics.matches import match
from tasks.metrics.semantic_segmentation import SemanticSegmentationMetric
from tasks.report.objects import ObjectResults


def results_of(metric: Any) -> dict[str, Any]:
    """What `Findings` wants to know of the predictions, after `compute`; nothing of a metric of somebody else's."""
    metric = metric.coco if isinstance(metric, InstanceSegmentationMetric) else metric
    if isinstance(metric, CocoMetric):
        kinds = [False, True] if metric.masks else [False]
        return {"objects": [object_results(metric, *metric.scored(masks=masks)) for masks in kinds]}
    if isinstance(metric, ClassificationMetric):
        return {"labels": metric.outcomes()}
    if isinstance(metric, SemanticSegmentationMetric):
        return {"pixels": metric.outcomes(), "confusion": metric.confusion_matrix()}
    return {}


def object_results(metric: CocoMetric, truth: GroundTruth, found: Predictions) -> ObjectResults:
    """Matched, with the names of classes in the order of their categories."""
    annotations = metric.annotations
    order = np.argsort(annotations.category_ids)
    sizes = getattr(annotations, "sizes", None)
    return ObjectResults(
        "boxes" if truth.masks is None else "masks",
        truth,
        found,
        match(truth, found, metric.max_detections[-1]),
        [annotations.class_names[int(label)] for label in order.tolist()],
        None if sizes is None else np.asarray(sizes)[np.argsort(annotations.image_ids)],
    )


def results_in(folder: Path, metric: CocoMetric) -> list[ObjectResults]:
    """The same of detections.json (and masks.json) in `folder`, for the annotations of `metric`.

    Raises:
        ValueError: a file is missing, damaged, or about other images or classes.
    """
    truth, _ = metric.truths()
    found = [object_results(metric, truth, read_detections(folder / "detections.json", metric))]
    if metric.masks:
        _, of_masks = metric.truths()
        assert of_masks is not None
        masks = read_detections(folder / "masks.json", metric, boxes=found[0].found)
        found.append(object_results(metric, of_masks, masks))
    return found


def read_detections(path: Path, metric: CocoMetric, boxes: Predictions | None = None) -> Predictions:
    """The detections that a run has written; of masks with the `boxes` that it wrote beside them."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        annotations = metric.annotations
        written = getattr(annotations, "written_ids", {})
        images = _places(annotations.image_ids, written.get("images", {}))
        categories = _places(annotations.category_ids, written.get("categories", {}))
        image = np.array([images[record["image_id"]] for record in records], np.int64)
        category = np.array([categories[record["category_id"]] for record in records], np.int64)
        scores = np.array([record["score"] for record in records], np.float64)
        masks = None
        if boxes is None:
            extents = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
        else:
            extents = boxes.boxes
            counts = np.empty(len(records), object)
            counts[:] = [record["segmentation"]["counts"].encode() for record in records]
            sizes = np.asarray(annotations.sizes)[np.argsort(annotations.image_ids)].tolist()  # type: ignore[attr-defined]
            masks = RunLengths(counts, image, sizes)
    except FileNotFoundError:
        raise ValueError(f"{path.parent} has no {path.name}; evaluate its model again") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not what a run on this data has written ({type(error).__name__}: {error!s:.100}); evaluate its "
            "model again"
        ) from None
    order = np.argsort(image, kind="stable")
    if masks is not None:
        masks = RunLengths(masks.counts[order], masks.images[order], masks.sizes)
    return Predictions(image[order], category[order], extents[order], scores[order], masks)


def _places(ids: np.ndarray, written: dict[int, str]) -> dict[Any, int]:
    return {written.get(number, number): place for place, number in enumerate(np.sort(ids).tolist())}
