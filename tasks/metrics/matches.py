"""Which detection found which object, image by image, as COCO's evaluation decides it.

What precision and recall are made of, kept so that images can be weighted (`weighted_precision.py`), errors be told
apart (`error_split.py`) and scores be calibrated, without matching anything twice.

Legend:
    I  images        K  classes        M  objects        N  detections that count
    A = 4 ranges of area (all, small, medium, large), T = 10 IoU thresholds 0.50 … 0.95
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions, areas_of

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's; to the bit, as matching at a tie hangs on it."""
AREA_RANGES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)], np.float64)
"""Square pixels, both ends included: all, small, medium, large."""


@dataclass(frozen=True)
class Matches:
    """Detections by class and then by falling score, with the object that each found, and the objects."""

    num_images: int
    num_categories: int
    images: np.ndarray
    """(N,) int32 in 0 … I-1."""
    categories: np.ndarray
    """(N,) int32 in 0 … K-1, ascending."""
    scores: np.ndarray
    """(N,) float64, descending within a class; of equal ones the lower image first."""
    ranks: np.ndarray
    """(N,) int32: place of the detection among those of its class in its image, from 0."""
    rows: np.ndarray
    """(N,) int64: row among the detections that were given."""
    is_true: np.ndarray
    """bool (A, T, N): it found an object that counts."""
    is_ignored: np.ndarray
    """bool (A, T, N): it counts neither for nor against, as it found a crowd or lies outside of the range of area."""
    objects: np.ndarray
    """int32 (T, N): row of the object that it found when objects of all areas count, -1 for none."""
    object_images: np.ndarray
    """(M,) int32."""
    object_categories: np.ndarray
    """(M,) int32."""
    object_is_ignored: np.ndarray
    """bool (A, M): crowds, and what lies outside of the range of area."""


@dataclass(frozen=True)
class Ranges:
    """Parts of the objects to look at one by one, as COCO does with areas; what lies outside of one is ignored."""

    objects: np.ndarray
    """bool (A, M): which objects are in each."""
    detections: np.ndarray
    """bool (A, N): which detections are; those that found an object go by the object."""


def area_ranges(truth: GroundTruth, found: Predictions) -> Ranges:
    """COCO's four ranges of area."""
    areas = areas_of(found)
    low, high = AREA_RANGES.T[:, :, None]
    return Ranges((truth.areas >= low) & (truth.areas <= high), (areas >= low) & (areas <= high))


def match(
    truth: GroundTruth, found: Predictions, max_detections: int = 100, ranges: Ranges | None = None
) -> Matches:
    """Matches each image's detections of a class, the best first, each with the free object that it overlaps most.

    The rules are those of `COCOeval.evaluateImg`, so the arrays made of the result are pycocotools' to the bit; masks
    are compared where `truth` has them. At most `max_detections` of a class in an image count. `ranges` are those of
    area, or others in their place; the first must hold everything.
    """
    num_categories = truth.num_categories
    # As pycocotools has it: within an image and class by score, the first given first among equal ones.
    order = np.lexsort((-found.scores, found.categories, found.images))
    group = found.images[order].astype(np.int64) * num_categories + found.categories[order]
    ranks = _places(group)
    order, group, ranks = (column[ranks < max_detections] for column in (order, group, ranks))
    object_group = truth.images.astype(np.int64) * num_categories + truth.categories
    by_group = np.argsort(object_group, kind="stable")

    ranges = area_ranges(truth, found) if ranges is None else ranges
    outside = ~ranges.detections[:, order]
    object_is_ignored = truth.is_crowd | ~ranges.objects
    shape = (len(outside), len(IOU_THRESHOLDS), len(order))
    matched, is_ignored = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    for rows, objects, overlaps in _groups(truth, found, order, group, object_group[by_group], by_group):
        _match_groups(rows, objects, overlaps, object_is_ignored, truth.is_crowd, matched, is_ignored)
    # COCO's code takes an object with id 0 for none.
    is_matched = (matched >= 0) & (np.append(truth.ids, 0)[matched] != 0)
    is_ignored |= ~is_matched & outside[:, None]

    final = np.lexsort((-found.scores[order], found.categories[order]))
    rows = order[final]
    is_matched, is_ignored = is_matched[..., final], is_ignored[..., final]
    return Matches(
        truth.num_images,
        num_categories,
        found.images[rows].astype(np.int32),
        found.categories[rows].astype(np.int32),
        found.scores[rows],
        ranks[final].astype(np.int32),
        rows,
        is_matched & ~is_ignored,
        is_ignored,
        matched[0][:, final],
        truth.images.astype(np.int32),
        truth.categories.astype(np.int32),
        object_is_ignored,
    )


def rows_by_image(images: np.ndarray, num_images: int) -> list[np.ndarray]:
    """The rows of each image, where `images` tells that of each row; in order."""
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, num_images)))


def box_overlaps(boxes: np.ndarray, objects: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
    """IoU of xywh boxes (…, 4) and (…, 4), broadcast; with a crowd the share of the box inside of it.

    The operations are those of pycocotools' `bbIou` in its order.
    """
    x, y, w, h = np.moveaxis(boxes, -1, 0)
    ox, oy, ow, oh = np.moveaxis(objects, -1, 0)
    width = np.minimum(w + x, ow + ox) - np.maximum(x, ox)
    height = np.minimum(h + y, oh + oy) - np.maximum(y, oy)
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    area = w * h
    union = np.where(is_crowd, area, area + ow * oh - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def image_overlaps(
    truth: GroundTruth, found: Predictions, rows: np.ndarray, objects: np.ndarray, is_crowd: np.ndarray
) -> np.ndarray:
    """IoU (n, m) of detections, `rows` (n,) of `found`, with `objects` (m,) of the same image, rows of `truth`; of
    masks where there are any. With a crowd (m,) the share of the detection inside of it."""
    if found.masks is None or not (len(rows) and len(objects)):
        return box_overlaps(found.boxes[rows][:, None], truth.boxes[objects], is_crowd)
    from pycocotools import mask as coco_mask

    assert truth.masks is not None and truth.sizes is not None
    size = truth.sizes[truth.images[objects[0]]].tolist()
    outlines = [_run_lengths(truth.masks[row], *size) for row in objects]
    masks = [found.masks[row] for row in rows]
    return np.asarray(coco_mask.iou(masks, outlines, is_crowd.astype(np.uint8).tolist()))


def _run_lengths(segmentation: Any, height: int, width: int) -> Any:
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def _places(groups: np.ndarray) -> np.ndarray:
    """The place of each row within its run of equal values."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths)


def _groups(
    truth: GroundTruth,
    found: Predictions,
    order: np.ndarray,
    group: np.ndarray,
    object_group: np.ndarray,
    by_group: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Groups of detections and objects of one image and class, those of like size together, padded with -1.

    Rows of `order` (n, D), rows of objects (n, G) and their overlaps (n, D, G).
    """
    names, starts = np.unique(object_group, return_index=True)
    stops = np.append(starts[1:], len(object_group))
    first, last = np.searchsorted(group, names, "left"), np.searchsorted(group, names, "right")
    is_used = last > first
    starts, stops, first, last = (column[is_used] for column in (starts, stops, first, last))
    num_found, num_objects = last - first, stops - starts
    size = np.ceil(np.log2(num_found)) * 64 + np.ceil(np.log2(num_objects))
    for value in np.unique(size):
        every = np.flatnonzero(size == value)
        cells = int(num_found[every].max() * num_objects[every].max())
        for some in np.array_split(every, max(1, len(every) * cells // 2**18)):
            rows = _padded(first[some], num_found[some])
            objects = _padded(starts[some], num_objects[some])
            objects = np.where(objects < 0, -1, by_group[objects])
            given = order[rows]
            if found.masks is None:
                crowd = truth.is_crowd[objects][:, None]
                overlaps = box_overlaps(found.boxes[given][:, :, None], truth.boxes[objects][:, None], crowd)
            else:
                overlaps = np.zeros((*rows.shape, objects.shape[1]))
                for n, (d, g) in enumerate(zip(num_found[some], num_objects[some], strict=True)):
                    own = objects[n, :g]
                    overlaps[n, :d, :g] = image_overlaps(truth, found, given[n, :d], own, truth.is_crowd[own])
            yield rows, objects, overlaps


def _padded(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n, longest): `starts` and what follows, -1 beyond each length."""
    place = np.arange(lengths.max(initial=0))
    return np.where(place < lengths[:, None], starts[:, None] + place, -1)


def _match_groups(
    rows: np.ndarray,
    objects: np.ndarray,
    overlaps: np.ndarray,
    object_is_ignored: np.ndarray,
    is_crowd: np.ndarray,
    matched: np.ndarray,
    is_ignored: np.ndarray,
) -> None:
    """Fills `matched` and `is_ignored` (A, T, N) for these groups, all ranks of detections one after another."""
    is_object = objects >= 0
    ignored = object_is_ignored[:, None][:, :, objects]  # (A, 1, n, G)
    crowd: np.ndarray = is_crowd[objects] & is_object
    free = np.broadcast_to(is_object, (*matched.shape[:2], *objects.shape)).copy()
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None, None]
    last = objects.shape[1] - 1
    for rank in range(rows.shape[1]):
        # Padding of detections comes last, so it only ever takes what nobody asks for again.
        some = rows[:, rank] >= 0
        overlap = overlaps[some, rank]
        if not (overlap >= thresholds[0]).any():
            continue
        is_candidate: np.ndarray = free[:, :, some] & (overlap >= thresholds)
        # What counts goes before what does not; of equal overlaps the last object is taken.
        is_ignored_object = np.broadcast_to(ignored[:, :, some], is_candidate.shape)
        counting = is_candidate & ~is_ignored_object
        chosen = np.where(np.any(counting, axis=-1, keepdims=True), counting, is_candidate)
        best = last - np.where(chosen, overlap, -1.0)[..., ::-1].argmax(axis=-1)
        is_matched = np.any(is_candidate, axis=-1, keepdims=True)[..., 0]
        target = rows[some, rank]
        places = np.broadcast_to(np.arange(len(target)), best.shape)
        matched[..., target] = np.where(is_matched, objects[some][places, best], -1)
        own = np.take_along_axis(is_ignored_object, best[..., None], -1)
        is_ignored[..., target] = is_matched & own[..., 0]
        taken = np.zeros_like(is_candidate)
        np.put_along_axis(taken, best[..., None], is_matched[..., None], -1)
        free[:, :, some] &= ~taken | crowd[some]
