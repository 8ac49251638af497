"""Objects and detections of a whole data set, as flat arrays, to COCO's precision and recall arrays.

pycocotools is the reference. hotcoco gives the same arrays to the bit, tens of times faster.

Legend:
    I  images, numbered 0 … I-1 in order of their ids        M  annotated objects
    K  classes, numbered 0 … K-1 in order of category ids    N  detections
    boxes are xywh in pixels of the original image
    T = 10 IoU thresholds 0.50 … 0.95, R = 101 recall thresholds 0.00 … 1.00, A = 4 ranges of area
    (all, small, medium, large), L limits of detections for each image and class
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import numpy as np


@dataclass(frozen=True)
class GroundTruth:
    """What is annotated."""

    num_images: int
    num_categories: int
    images: np.ndarray
    """(M,) int64 in 0 … I-1."""
    categories: np.ndarray
    """(M,) int64 in 0 … K-1."""
    boxes: np.ndarray
    """(M, 4) float64."""
    areas: np.ndarray
    """(M,) float64 square pixels; decides between small, medium and large."""
    is_crowd: np.ndarray
    """(M,) bool."""
    ids: np.ndarray
    """(M,) int64, all different. Only 0 means something: COCO's code takes a match with it for no match."""
    sizes: np.ndarray | None = None
    """(I, 2) int64: (height, width) of each image; needed to score masks."""
    masks: Sequence[Any] | None = None
    """M segmentations as COCO writes them, polygons or run lengths, to score masks; None to score boxes."""


@dataclass(frozen=True)
class Predictions:
    """What a model found. Within an image the order matters: among equal scores the first goes first."""

    images: np.ndarray
    """(N,) int64 in 0 … I-1."""
    categories: np.ndarray
    """(N,) int64 in 0 … K-1."""
    boxes: np.ndarray
    """(N, 4) float64."""
    scores: np.ndarray
    """(N,) float64."""
    masks: "RunLengths | None" = None
    """N masks."""


@dataclass(frozen=True)
class RunLengths:
    """N masks as COCO's compressed run lengths: `{"size": [h, w], "counts": bytes}` each, made while they are read,
    as so many dicts would take several times the memory of the strings."""

    counts: np.ndarray
    """(N,) bytes objects."""
    images: np.ndarray
    """(N,) int64 in 0 … I-1."""
    sizes: Sequence[list[int]]
    """(I,) [height, width]."""

    def __len__(self) -> int:
        """Number of masks."""
        return len(self.counts)

    def __iter__(self) -> Iterator[Any]:
        """Each of them."""
        for counts, image in zip(self.counts, self.images.tolist(), strict=True):
            yield {"size": self.sizes[image], "counts": counts}

    def __getitem__(self, row: int) -> Any:
        """One of them."""
        return {"size": self.sizes[self.images[row]], "counts": self.counts[row]}


Evaluator = Callable[[GroundTruth, Predictions, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


def evaluator(backend: str) -> tuple[str, Evaluator]:
    """The name and function of an evaluator.

    `auto` takes hotcoco where it is installed and pycocotools elsewhere. The function returns precision
    (T, R, K, A, L) and recall (T, K, A, L), float64, -1 wherever no object counts.
    """
    evaluators: dict[str, Evaluator] = {"hotcoco": with_hotcoco, "pycocotools": with_pycocotools}
    if backend != "auto" and backend not in evaluators:
        raise ValueError(f"metric backend {backend!r} is unknown: take auto, {' or '.join(evaluators)}")
    for name in evaluators if backend == "auto" else [backend]:
        if find_spec(name) is not None:
            return name, evaluators[name]
    missing = "pycocotools" if backend == "auto" else backend
    raise ValueError(f"average precision needs {missing}, which is not installed: pip install {missing}")


def with_pycocotools(
    truth: GroundTruth, found: Predictions, max_detections: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's own code."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    shared: dict[str, Any] = {
        "images": _images(truth),
        "categories": [{"id": k} for k in range(truth.num_categories)],
    }
    # `COCO.loadRes` would do for the detections, but fails on an empty list and adds a polygon to each.
    objects = _records(truth, id=truth.ids, area=truth.areas, iscrowd=truth.is_crowd.astype(np.int64))
    detections = _records(
        found,
        id=np.arange(1, len(found.scores) + 1),
        area=areas_of(found),
        iscrowd=np.zeros(len(found.scores), np.int64),
        score=found.scores,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it reports progress by printing
        sides = []
        for annotations in (objects, detections):
            side = COCO()
            side.dataset = cast(Any, {**shared, "annotations": annotations})
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox" if truth.masks is None else "segm")
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def with_hotcoco(
    truth: GroundTruth, found: Predictions, max_detections: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The same in Rust (https://github.com/derekallman/hotcoco), straight from the arrays."""
    import hotcoco

    objects = hotcoco.COCO.from_arrays(
        _images(truth),
        [{"id": k, "name": str(k)} for k in range(truth.num_categories)],
        truth.images,
        truth.categories,
        truth.boxes,
        ids=truth.ids,
        area=truth.areas,
        iscrowd=truth.is_crowd,
        segmentation=None if truth.masks is None else list(truth.masks),
    )
    rows = np.column_stack([found.images, found.boxes, found.scores, found.categories])
    masks = None if found.masks is None else list(found.masks)
    detections = objects.load_res(rows, segmentation=masks)
    if masks is not None:  # it has given each the area of its box
        detections.update_anns(ids=np.arange(1, len(rows) + 1), area=hotcoco.mask.area(masks))
    evaluation = hotcoco.COCOeval(objects, detections, "bbox" if truth.masks is None else "segm")
    del found, rows, masks  # the matching takes as much memory anew
    evaluation.params.max_dets = list(max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    result = evaluation.eval
    assert result is not None
    return result["precision"], result["recall"]


def _records(items: GroundTruth | Predictions, **columns: np.ndarray) -> list[dict[str, Any]]:
    """One dict of plain numbers for each object, as pycocotools wants them."""
    columns = {"image_id": items.images, "category_id": items.categories, "bbox": items.boxes, **columns}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    records: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows]
    for record, mask in zip(records, items.masks or (), strict=items.masks is not None):
        record["segmentation"] = mask
    return records


def _images(truth: GroundTruth) -> list[dict[str, Any]]:
    if truth.sizes is None:
        return [{"id": i} for i in range(truth.num_images)]
    return [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(truth.sizes.tolist())]


def areas_of(found: Predictions) -> np.ndarray:
    """(N,) float64: of the masks where there are any, else of the boxes."""
    if found.masks is None:
        return found.boxes[:, 2] * found.boxes[:, 3]
    from pycocotools import mask as coco_mask

    return np.array([float(coco_mask.area(mask)) for mask in found.masks])
