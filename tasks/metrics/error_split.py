"""What a detector does wrong, and how much AP each kind of error costs: TIDE (Bolya et al., 2020), sections 2.1 to 2.3.

Each false detection has one kind of error, by what it overlaps; objects that no such error stands for are missed. An
error costs the AP at IoU 0.5 that mending all errors of its kind, and nothing else, would bring.

Legend:
    N  detections, in the order of `Matches`        M  objects        K  classes
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.matches import Matches, image_overlaps, rows_by_image
from tasks.metrics.weighted_precision import RECALLS, num_reached

FOREGROUND, BACKGROUND_IOU = 0.5, 0.1
"""IoU from which a detection can be right, and up to which it lies on background (section 2.1)."""
KINDS = ("class", "localisation", "both", "duplicate", "background")
"""Of false detections: another class's object; an object of its class, badly; badly, and another class's; an object
that a better one has found; nothing."""
RIGHT, IGNORED = -1, -2
"""In the place of a kind."""
FOUND, MENDABLE, MISSED, NOT_COUNTED = range(4)
"""Of objects: found; not, but a class or localisation error stands for it; not at all; a crowd."""


@dataclass(frozen=True)
class ErrorSplit:
    """Each error by its kind, and what kinds cost."""

    ap50: float
    """AP at IoU 0.5, mean over the classes that have objects; nan without any."""
    kinds: np.ndarray
    """(N,) int8: place in `KINDS`, RIGHT or IGNORED."""
    targets: np.ndarray
    """(N,) int64: row of the object that the detection found, or that its error is about; -1 for none."""
    overlaps: np.ndarray
    """(N,) float64: IoU with it."""
    objects: np.ndarray
    """(M,) int8: FOUND, MENDABLE, MISSED or NOT_COUNTED."""
    costs: dict[str, float]
    """AP at IoU 0.5 that each kind costs, in 0 … 1; of `KINDS`, "missed", and of all false detections ("false
    positives") and all objects not found ("false negatives") together."""
    counts: dict[str, int]
    """How many errors of each kind there are."""


def error_split(truth: GroundTruth, found: Predictions, matches: Matches) -> ErrorSplit:
    """The errors of the detections that `matches` was made of."""
    is_right, is_ignored = matches.is_true[0, 0], matches.is_ignored[0, 0]
    kinds = np.where(is_ignored, IGNORED, RIGHT).astype(np.int8)
    targets, overlaps = matches.objects[0].astype(np.int64), np.zeros(len(kinds))
    counts_object = ~truth.is_crowd
    is_found = np.zeros(len(truth.images), bool)
    is_found[targets[is_right]] = True

    sides = (rows_by_image(side.images, truth.num_images) for side in (matches, truth))
    for rows, of_image in zip(*sides, strict=True):
        objects = of_image[counts_object[of_image]]
        given = matches.rows[rows]
        iou = image_overlaps(truth, found, given, objects, np.zeros(len(objects), bool))
        is_false = ~is_right[rows] & ~is_ignored[rows]
        same = matches.categories[rows][:, None] == truth.categories[objects]
        kind, target = _kinds(iou, same)
        kinds[rows[is_false]] = kind[is_false]
        targets[rows[is_false]] = np.append(objects, -1)[target[is_false]]
        if len(objects):
            order = np.argsort(objects)
            column = order[np.searchsorted(objects[order], targets[rows]).clip(max=len(objects) - 1)]
            known = objects[column] == targets[rows]
            overlaps[rows] = np.where(known, iou[np.arange(len(rows)), column], 0)

    is_mendable = np.zeros(len(truth.images), bool)
    mends = np.flatnonzero((kinds == 0) | (kinds == 1))
    is_mendable[targets[mends]] = True
    objects_are = np.select([~counts_object, is_found, is_mendable], [NOT_COUNTED, FOUND, MENDABLE], MISSED)
    costs, counts = _costs(truth, matches, kinds, targets, objects_are)
    return ErrorSplit(costs.pop("AP50"), kinds, targets, overlaps, objects_are.astype(np.int8), costs, counts)


def _kinds(iou: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kind (n,) each detection would be if it is false, and the column of the object that it is about, -1 for none.

    `iou` (n, m) with all objects of the image, of which `same` (n, m) are of its class.
    """
    if not iou.shape[1]:
        return np.full(len(iou), 4, np.int8), np.full(len(iou), -1)
    own, other = np.where(same, iou, 0), np.where(same, 0, iou)
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    conditions = [
        (best_own >= BACKGROUND_IOU) & (best_own < FOREGROUND),
        best_other >= FOREGROUND,
        best_own >= FOREGROUND,
        best_other > BACKGROUND_IOU,
    ]
    kind = np.select(conditions, [1, 0, 3, 2], 4).astype(np.int8)
    column = np.select([kind == 4, (kind == 1) | (kind == 3)], [-1, own.argmax(axis=1)], other.argmax(axis=1))
    return kind, column


def _costs(
    truth: GroundTruth, matches: Matches, kinds: np.ndarray, targets: np.ndarray, objects: np.ndarray
) -> tuple[dict[str, float], dict[str, int]]:
    counting = objects != NOT_COUNTED
    totals = np.bincount(truth.categories[counting], minlength=truth.num_categories)
    classes = np.flatnonzero(totals)
    is_counted = kinds != IGNORED
    is_right = kinds == RIGHT

    def ap(
        keep: np.ndarray,
        right: np.ndarray,
        categories: np.ndarray = matches.categories,
        totals: np.ndarray = totals,
    ) -> float:
        return mean_ap(matches.scores[keep], right[keep], categories[keep], totals, classes)

    base = ap(is_counted, is_right)
    # Of all that could be mended to an object that nobody has found, the best one stands for it, the rest go.
    mends = np.flatnonzero((kinds == 0) | (kinds == 1))
    mends = mends[objects[targets[mends]] == MENDABLE]
    mends = mends[np.lexsort((-matches.scores[mends], targets[mends]))]
    mends = mends[np.unique(targets[mends], return_index=True)[1]]
    is_mended = np.zeros(len(kinds), bool)
    is_mended[mends] = True
    of_target = np.where(targets >= 0, np.append(truth.categories, 0)[targets], matches.categories)

    fixes: dict[str, Callable[[], float]] = {}
    for place, name in enumerate(KINDS):
        is_kind = kinds == place
        right, keep = is_right | (is_kind & is_mended), is_counted & (~is_kind | is_mended)
        categories = (
            np.where(is_kind, of_target, matches.categories) if name == "class" else matches.categories
        )
        fixes[name] = lambda keep=keep, right=right, categories=categories: ap(keep, right, categories)
    missed = np.bincount(truth.categories[objects == MISSED], minlength=len(totals))
    unfound = np.bincount(truth.categories[counting & (objects != FOUND)], minlength=len(totals))
    fixes["missed"] = lambda: ap(is_counted, is_right, totals=totals - missed)
    fixes["false positives"] = lambda: ap(is_right, is_right)
    fixes["false negatives"] = lambda: ap(is_counted, is_right, totals=totals - unfound)
    costs = {name: fix() - base for name, fix in fixes.items()}
    counts = {name: int((kinds == place).sum()) for place, name in enumerate(KINDS)}
    counts |= {
        "missed": int(missed.sum()),
        "false positives": int((is_counted & ~is_right).sum()),
        "false negatives": int(unfound.sum()),
    }
    return {"AP50": base, **costs}, counts


def mean_ap(
    scores: np.ndarray, is_right: np.ndarray, categories: np.ndarray, totals: np.ndarray, classes: np.ndarray
) -> float:
    """AP over 101 recall thresholds of detections (n,), mean over `classes`, with `totals` (K,) objects each.

    A class whose last object an oracle took away is perfect if nothing is found of it. nan without classes.
    """
    order = np.lexsort((-scores, categories))
    is_right, categories = is_right[order], categories[order]
    bounds = np.searchsorted(categories, np.arange(len(totals) + 1))
    values = []
    for k in classes.tolist():
        right = is_right[bounds[k] : bounds[k + 1]]
        if not totals[k]:
            values.append(float(not len(right)))
            continue
        places = np.flatnonzero(right)
        curve = np.arange(1, len(places) + 1) / (places + 1 + np.spacing(1))
        curve = np.maximum.accumulate(curve[::-1])[::-1]
        reached = num_reached(np.arange(1, len(places) + 1)[None], np.array([[totals[k]]]))[0]
        values.append((np.diff(reached, prepend=0) * curve).sum() / len(RECALLS))
    return float(np.mean(values)) if values else float("nan")
