"""Average precision and recall of boxes and masks as COCO measures them, over a whole data set and all ranks."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np

from tasks.contracts import Batch, Detections
from tasks.device_copies import fetch
from tasks.distributed import all_gather_objects
from tasks.files import write_json_list, write_whole
from tasks.metrics.average_precision import GroundTruth, Predictions, RunLengths, evaluator
from tasks.metrics.coverage import check_every_image_once, preview
from tasks.metrics.matches import Matches, match
from tasks.metrics.outcomes import AREAS, ObjectOutcomes


class Annotations(Protocol):
    """The objects of a data set as flat arrays, those of image i in rows `offsets[i]` to `offsets[i + 1]`.

    I images, K classes, M objects.
    """

    @property
    def class_names(self) -> Sequence[str]: ...  # K
    @property
    def category_ids(self) -> np.ndarray: ...  # (K,) int64, the data set's own
    @property
    def image_ids(self) -> np.ndarray: ...  # (I,) int64
    @property
    def offsets(self) -> np.ndarray: ...  # (I + 1,) int64
    @property
    def ids(self) -> np.ndarray: ...  # (M,) int64
    @property
    def labels(self) -> np.ndarray: ...  # (M,) int64, 0 … K-1
    @property
    def boxes(self) -> np.ndarray: ...  # (M, 4) float64 xywh, original pixels
    @property
    def areas(self) -> np.ndarray: ...  # (M,) float64
    @property
    def is_crowd(self) -> np.ndarray: ...  # (M,) bool


class MaskAnnotations(Annotations, Protocol):
    """The same with a mask for each object."""

    @property
    def sizes(self) -> np.ndarray: ...  # (I, 2) int (height, width)
    def segmentation(self, index: int) -> Any: ...  # of object `index`, as COCO writes it; None without one


class CocoMetric:
    """COCO's twelve numbers, AP by class, and the detections in COCO's result format.

    Every image of `annotations` must be seen exactly once, over all ranks. Detections are kept as arrays,
    24 bytes each, and their masks as run lengths. The numbers do not depend on the order of batches or on
    the number of ranks.
    """

    backend_used: str
    """Which evaluator runs: `hotcoco` or `pycocotools`; they agree to the bit."""

    def __init__(
        self,
        annotations: Annotations | MaskAnnotations,
        *,
        masks: bool = False,
        max_detections: tuple[int, int, int] | int | None = None,
        backend: str = "auto",
    ):
        """
        Args:
            annotations: the truth, as written in the data set.
            masks: score masks besides boxes; `annotations` are `MaskAnnotations` then.
            max_detections: limits, ascending, for each image and class, of which AP takes the last; or the last alone.
                None for COCO's 1, 10 and 100, of which the last grows where an image has more objects of a class.
            backend: `auto` (hotcoco where it is installed), `hotcoco`, or `pycocotools`, the reference.

        Raises:
            ValueError: for annotations that cannot be scored: ids or class names that are not unique.
        """
        if max_detections is None:
            max_detections = last_limit(annotations)
        limits = [1, 10, max_detections] if isinstance(max_detections, int) else list(max_detections)
        if len(limits) != 3 or limits[0] < 1 or limits != sorted(set(limits)):
            raise ValueError(f"max_detections={limits} must be three ascending limits, the first at least 1")
        for name in ("image_ids", "category_ids", "ids", "class_names"):
            values, counts = np.unique(np.asarray(getattr(annotations, name)), return_counts=True)
            if (counts > 1).any():
                raise ValueError(
                    f"annotations.{name} must all be different to be scored; "
                    f"more than once: {preview(values[counts > 1])}"
                )
        if (np.asarray(annotations.ids) == 0).any():
            # pycocotools notes the id of the match and reads 0 as none; hotcoco does not share the slip.
            warnings.warn(
                "an annotation has id 0, which COCO's own code never counts as found: number annotations "
                "from 1 (until then pycocotools does the scoring, so that the numbers are COCO's)",
                stacklevel=2,
            )
            backend = "pycocotools"
        self.annotations = annotations
        self.masks = masks
        self.max_detections = tuple(limits)
        self.backend_used, self._evaluate = evaluator(backend)
        self._truth = _truth(annotations)
        self._mask_truth = _with_masks(self._truth, cast(MaskAnnotations, annotations)) if masks else None
        self.reset()

    def reset(self) -> None:
        """Forgets every image seen."""
        # Image ids (B,), counts (B,), boxes xyxy, scores, labels, and run lengths where masks are scored.
        self._seen: list[tuple[np.ndarray, ...]] = []
        self._gathered: tuple[np.ndarray, ...] | None = None

    def update(
        self, predictions: Detections, batch: Batch, run_lengths: Sequence[bytes] | None = None
    ) -> None:
        """Adds the detections, in original pixels, of the images of one batch.

        `run_lengths` are COCO's compressed run lengths of the mask of each detection, image by image, rows of
        padding left out; wanted where masks are scored.

        Raises:
            ValueError: when a detection is not finite or has a label that the annotations do not have.
        """
        columns = fetch(
            predictions.labels, predictions.boxes.float(), predictions.scores.float(), batch.image_ids
        )
        labels, boxes, scores, image_ids = (column.numpy() for column in columns)
        valid = labels >= 0
        boxes, scores, labels = boxes[valid], scores[valid], labels[valid].astype(np.int32)
        num_classes = len(self.annotations.category_ids)
        if (labels >= num_classes).any():
            raise ValueError(
                f"the model predicts class number {labels.max()} but the annotations have {num_classes}, "
                "counted from 0: evaluate on data with the classes that the model was trained for"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(
                "the model predicts boxes or scores that are not finite; it has diverged: "
                "lower the learning rate or start from an earlier checkpoint"
            )
        assert len(image_ids) == len(valid), (len(image_ids), len(valid))
        assert (run_lengths is not None) == self.masks
        masks = () if run_lengths is None else (_objects(run_lengths),)
        assert all(len(column) == len(labels) for column in masks)
        self._seen.append((image_ids, valid.sum(axis=1), boxes, scores, labels, *masks))
        self._gathered = None

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, AP_small, AP_medium, AP_large, AR_1, AR_10, AR_100 (or other limits), AR_small,
        AR_medium, AR_large, then `AP/<class name>` in order of labels; each in 0 … 1.

        Where masks are scored, the same numbers of the masks follow under `mask_AP` and so on.

        nan where the data set has no object of that kind; pycocotools says -1 there. Classes without
        objects are left out of every mean, as in pycocotools.

        Raises:
            ValueError: when an image of the annotations was missed or seen more than once.
        """
        numbers = self._numbers(*self.precision_and_recall())
        if self.masks:
            of_masks = self._numbers(*self.precision_and_recall(masks=True))
            numbers |= {f"mask_{name}": value for name, value in of_masks.items()}
        return numbers

    def precision_and_recall(self, *, masks: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """COCO's arrays behind the numbers, of boxes or of masks: precision (10 IoU thresholds, 101 recall
        thresholds, K, 4 ranges of area, 3 limits) and recall (10, K, 4, 3), -1 wherever no object counts.
        Classes are in order of their category ids."""
        truth = self._mask_truth if masks else self._truth
        assert truth is not None, "the metric was made without masks"
        # Kept nowhere here: the evaluator lets go of them before it takes the most memory.
        return self._evaluate(truth, self._found(masks=masks), self.max_detections)

    def matches(self, *, masks: bool = False) -> Matches:
        """Which detection found which object. Classes are in order of their category ids, images of their ids.

        In a distributed run call this on one rank, after `compute` on all."""
        truth, found = self.scored(masks=masks)
        return match(truth, found, self.max_detections[-1])

    def scored(self, *, masks: bool = False) -> tuple[GroundTruth, Predictions]:
        """What is compared: the objects and the detections of all ranks."""
        truth = self._mask_truth if masks else self._truth
        assert truth is not None, "the metric was made without masks"
        return truth, self._found(masks=masks)

    def truths(self) -> tuple[GroundTruth, GroundTruth | None]:
        """The objects with boxes, and with masks where those are scored."""
        return self._truth, self._mask_truth

    def outcomes(self) -> ObjectOutcomes:
        """What happened on each image, for intervals and comparisons."""
        found = {"": self.matches()}
        if self.masks:
            found["mask_"] = self.matches(masks=True)
        order = np.argsort(_ranks(self.annotations.category_ids))
        names = [self.annotations.class_names[int(label)] for label in order.tolist()]
        return ObjectOutcomes(found, names, self.max_detections)

    def _numbers(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        numbers = {"AP": _mean(precision[..., 0, 2])}
        numbers["AP50"] = _mean(precision[0, ..., 0, 2])
        numbers["AP75"] = _mean(precision[5, ..., 0, 2])
        numbers |= {f"AP_{AREAS[a]}": _mean(precision[..., a, 2]) for a in (1, 2, 3)}
        numbers |= {f"AR_{limit}": _mean(recall[..., 0, i]) for i, limit in enumerate(self.max_detections)}
        numbers |= {f"AR_{AREAS[a]}": _mean(recall[..., a, 2]) for a in (1, 2, 3)}
        ranks = _ranks(self.annotations.category_ids)
        for name, k in zip(self.annotations.class_names, ranks, strict=True):
            numbers[f"AP/{name}"] = _mean(precision[:, :, k, 0, 2])
        return numbers

    def results(self, *, masks: bool = False) -> list[dict[str, Any]]:
        """The detections of all ranks in COCO's result format, by ascending image id: `image_id`,
        `category_id` (the data set's own), `bbox` xywh, `score`, unrounded.

        With `masks` each has its `segmentation` (compressed run lengths) in place of `bbox`: COCO's code would
        take the area of the box, where there is one, for that of the mask.

        In a distributed run all ranks call this together, unless `compute` came before.
        """
        return list(self._records(masks))

    def write_results(self, path: str | os.PathLike[str], *, masks: bool = False) -> None:
        """Writes `results` as JSON, a line for each detection; `path` is replaced whole or not at all.

        pycocotools run on the file gives the numbers of `compute`. In a distributed run call this on
        one rank, after `compute` on all.
        """
        with write_whole(path) as partial, open(partial, "w", encoding="utf-8") as file:
            write_json_list(file, self._records(masks))
            file.write("\n")

    def _records(self, masks: bool) -> Iterator[dict[str, Any]]:
        found = self._found(masks=masks)
        images = np.sort(self.annotations.image_ids)[found.images].tolist()
        categories = np.sort(self.annotations.category_ids)[found.categories].tolist()
        written: dict[str, dict[int, str]] = getattr(self.annotations, "written_ids", {})
        if masks:
            assert found.masks is not None
            key, values = "segmentation", ({**m, "counts": m["counts"].decode()} for m in found.masks)
        else:
            key, values = "bbox", found.boxes.tolist()
        for image, category, value, score in zip(
            images, categories, values, found.scores.tolist(), strict=True
        ):
            yield {
                "image_id": written.get("images", {}).get(image, image),
                "category_id": written.get("categories", {}).get(category, category),
                key: value,
                "score": score,
            }

    def _found(self, *, masks: bool) -> Predictions:
        """The detections of all ranks, with or without masks, by ascending image id, in the order given within an
        image."""
        if self._gathered is None:
            boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
            empty = (np.zeros(0, np.int64),) * 2 + (boxes, scores, np.zeros(0, np.int32))
            empty += (np.zeros(0, object),) * self.masks
            mine = tuple(np.concatenate(column) for column in zip(empty, *self._seen, strict=True))
            self._seen = [mine]
            every = all_gather_objects(mine)
            joined = (np.concatenate(column) for column in zip(*every, strict=True))
            self._gathered = tuple(joined) if len(every) > 1 else mine
        image_ids, counts, boxes, scores, labels, *run_lengths = self._gathered
        check_every_image_once(np.asarray(self.annotations.image_ids), image_ids)
        images = np.repeat(np.searchsorted(np.sort(self.annotations.image_ids), image_ids), counts)
        order = np.argsort(images, kind="stable")
        categories = _ranks(self.annotations.category_ids)[labels]
        strings = None
        if masks:
            sizes = _sizes(cast(MaskAnnotations, self.annotations)).tolist()
            strings = RunLengths(run_lengths[0][order], images[order], sizes)
        extents = boxes[order].astype(np.float64)
        extents[:, 2:] -= extents[:, :2]  # in float64, as a reader of the written file would
        return Predictions(
            images[order], categories[order], extents, scores[order].astype(np.float64), strings
        )


def last_limit(annotations: Annotations) -> int:
    """Detections of an image and class that AP counts: COCO's 100, or the next hundred that no number of objects
    exceeds."""
    images = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.offsets))
    pairs = images * len(annotations.category_ids) + np.asarray(annotations.labels)
    most = int(np.unique(pairs, return_counts=True)[1].max(initial=0))
    return max(100, 100 * math.ceil(most / 100))


def _truth(annotations: Annotations) -> GroundTruth:
    return GroundTruth(
        num_images=len(annotations.image_ids),
        num_categories=len(annotations.category_ids),
        images=np.repeat(_ranks(annotations.image_ids), np.diff(annotations.offsets)),
        categories=_ranks(annotations.category_ids)[annotations.labels],
        boxes=np.asarray(annotations.boxes, np.float64),
        areas=np.asarray(annotations.areas, np.float64),
        is_crowd=np.asarray(annotations.is_crowd, bool),
        ids=np.where(np.asarray(annotations.ids) == 0, 0, np.arange(1, len(annotations.ids) + 1)),
    )


def _with_masks(truth: GroundTruth, annotations: MaskAnnotations) -> GroundTruth:
    empty = [[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]  # of an object whose mask is not known
    masks = [annotations.segmentation(index) or empty for index in range(len(annotations.ids))]
    return replace(truth, sizes=_sizes(annotations), masks=masks)


def _sizes(annotations: MaskAnnotations) -> np.ndarray:
    """(I, 2): of the images in the order that COCO's code works in."""
    return np.asarray(annotations.sizes)[np.argsort(annotations.image_ids)]


def _objects(values: Sequence[bytes]) -> np.ndarray:
    """(N,) of objects; numpy would cut strings of bytes at their last zero."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _ranks(ids: np.ndarray) -> np.ndarray:
    """The place of each id among the sorted ones, which is the order that COCO's code works in."""
    return np.searchsorted(np.sort(ids), ids)


def _mean(values: np.ndarray) -> float:
    """Of all that count; the same sum in the same order as pycocotools', so the same to the last bit."""
    counting = values[values > -1]
    return float(np.mean(counting)) if counting.size else math.nan
