"""Average precision of a data set whose images count with weights: bootstrap resamples of it, and itself.

With weights of 1 the arrays are pycocotools' to the bit. Only detections that found an object are looked at: between
two of them precision falls and recall stands, so neither the envelope of precision nor what it gives at a recall
depends on what lies there.

Legend, as in `matches.py`:
    W  weightings     I  images     K  classes     N  detections of a class     P  those of them that are right
    A  ranges of area     T  IoU thresholds     R = 101 recall thresholds
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tasks.metrics.matches import IOU_THRESHOLDS, Matches

RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)
"""COCO's numbers of detections of a class in an image."""
_BLOCK = 2**21
"""Numbers of a class at a time: in smaller blocks threads wait for the interpreter more than the cache saves."""


@dataclass(frozen=True)
class WeightedPrecision:
    """Average precision and recall, nan where no object counts."""

    precision: np.ndarray
    """float64 (W, A, T, K): mean of precision over the recall thresholds."""
    recall: np.ndarray
    """float64 (W, A, T, K): of all detections that count."""
    recall_at: np.ndarray
    """float64 (W, L, T, K): recall of objects of all areas by the best 1, 10, … of each class in an image."""


def weighted_precision(
    matches: Matches, weights: np.ndarray, limits: tuple[int, ...] = LIMITS, *, threads: int = 1
) -> WeightedPrecision:
    """Average precision with each of `weights` (W, I), which are not negative."""
    num = len(weights)
    shape = (num, len(matches.is_true), len(IOU_THRESHOLDS), matches.num_categories)
    found = WeightedPrecision(
        np.full(shape, np.nan), np.full(shape, np.nan), np.full((num, len(limits), *shape[2:]), np.nan)
    )

    def of_class(k: int) -> None:
        for a, plan in enumerate(_plans(matches, k)):
            step = max(1, _BLOCK // max(1, len(plan.counted), len(plan.seen)))
            for start in range(0, num, step):
                _fill(found, plan, weights[start : start + step], limits, (start, a, k))

    classes = np.unique(matches.object_categories).tolist()
    if threads == 1:
        for k in classes:
            of_class(k)
    else:  # numpy lets go of the interpreter in each of its loops
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(of_class, classes))
    return found


def _fill(
    found: WeightedPrecision,
    plan: "_Plan",
    weights: np.ndarray,
    limits: tuple[int, ...],
    place: tuple[int, int, int],
) -> None:
    start, a, k = place
    rows = slice(start, start + len(weights))
    total = _sum(np.take(weights, plan.counted, axis=1))
    share = np.where(total > 0, 1 / np.maximum(total, 1e-9), np.nan)
    for t, (curve, right, right_weights, ranks) in enumerate(plan.curves(weights)):
        steps = num_reached(right, np.maximum(total, 1e-9)[:, None])
        steps[:, 1:] -= steps[:, :-1].copy()
        area = np.einsum("wp,wp->w", steps, curve)
        found.precision[rows, a, t, k] = np.where(total > 0, area / len(RECALLS), np.nan)
        every = right[:, -1] if right.shape[1] else np.zeros(len(weights))
        found.recall[rows, a, t, k] = every * share
        if a == 0:
            for i, limit in enumerate(limits):
                beyond = _sum(np.take(right_weights, np.flatnonzero(ranks >= limit), axis=1))
                found.recall_at[rows, i, t, k] = (every - beyond) * share


def precision_curves(matches: Matches) -> np.ndarray:
    """COCO's precision (T, R, K, A) at each recall threshold, every image counting once; -1 where no object counts."""
    shape = (len(IOU_THRESHOLDS), len(RECALLS), matches.num_categories, len(matches.is_true))
    result = np.full(shape, -1.0)
    once = np.ones((1, matches.num_images))
    for k in np.unique(matches.object_categories).tolist():
        for a, plan in enumerate(_plans(matches, k)):
            if not (total := len(plan.counted)):
                continue
            for t, (curve, right, *_) in enumerate(plan.curves(once)):
                steps = np.diff(num_reached(right, np.array([[total]]))[0], prepend=0)
                values = np.repeat(curve[0], steps)
                result[t, :, k, a] = np.append(values, np.zeros(len(RECALLS) - len(values)))
    return result


@dataclass(frozen=True)
class _Plan:
    """What weights have no part in, of one class and range of area. U are detections right at any threshold."""

    counted: np.ndarray
    """Images of the objects that count."""
    seen: np.ndarray
    """Images of the detections that most thresholds count, by falling score, down to the last that is right."""
    seen_before: np.ndarray
    """(U,): how many of these come up to each of U."""
    images: np.ndarray
    """(U,) of the detections that are right at any threshold."""
    ranks: np.ndarray
    """(U,)."""
    by_threshold: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
    """Places in U that are right; and detections that this threshold alone counts or leaves out: their images, 1 or -1,
    and how many of them come up to each that is right."""

    def curves(self, weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For each threshold the envelope of precision (W, P), the objects found up to there (W, P), and weights (W, P)
        and ranks (P,) of the right detections."""
        kind = weights.dtype
        sums = np.cumsum(np.take(weights, self.seen, axis=1), axis=1, dtype=kind)
        seen_by_any = _up_to(sums, self.seen_before)
        weights_of_any = np.take(weights, self.images, axis=1)
        for places, images, signs, before in self.by_threshold:
            right_weights = np.take(weights_of_any, places, axis=1)
            right = np.cumsum(right_weights, axis=1, dtype=kind)
            seen = np.take(seen_by_any, places, axis=1)
            if len(images):
                sums = np.cumsum(np.take(weights, images, axis=1) * signs.astype(kind), axis=1, dtype=kind)
                seen += _up_to(sums, before)
            curve = right / (seen + np.spacing(1))
            np.maximum.accumulate(curve[:, ::-1], axis=1, out=curve[:, ::-1])
            yield curve, right, right_weights, self.ranks[places]


def _plans(matches: Matches, k: int) -> Iterator[_Plan]:
    """That of each range of area."""
    start, stop = np.searchsorted(matches.categories, [k, k + 1])
    images, ranks = matches.images[start:stop], matches.ranks[start:stop]
    objects = np.flatnonzero(matches.object_categories == k)
    for a in range(len(matches.is_true)):
        is_ignored, is_true = matches.is_ignored[a, :, start:stop], matches.is_true[a, :, start:stop]
        ever_true = np.flatnonzero(is_true.any(axis=0))
        end = int(ever_true[-1]) + 1 if len(ever_true) else 0
        # What most thresholds leave out is left out of one sum, what single ones do beside is put right.
        usual = is_ignored[:, :end].sum(axis=0) > len(is_ignored) / 2
        seen = np.flatnonzero(~usual)
        by_threshold = []
        for ignored_now, true_now in zip(is_ignored[:, :end], is_true, strict=True):
            places = np.flatnonzero(true_now[ever_true])
            different = np.flatnonzero(ignored_now != usual)
            before = np.searchsorted(different, ever_true[places], "right")
            by_threshold.append((places, images[different], np.where(usual[different], 1, -1), before))
        yield _Plan(
            matches.object_images[objects[~matches.object_is_ignored[a, objects]]],
            images[seen],
            np.searchsorted(seen, ever_true, "right"),
            images[ever_true],
            ranks[ever_true],
            by_threshold,
        )


def _up_to(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(W, P): of running sums (W, n) those behind the first `counts` (P,) of what was summed."""
    if not sums.shape[1]:
        return np.zeros((len(sums), len(counts)), sums.dtype)
    found = np.take(sums, np.maximum(counts - 1, 0), axis=1)
    if len(counts) and counts[0] == 0:
        found[:, counts == 0] = 0
    return found


def _sum(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=1, dtype=np.float64)


def num_reached(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """How many recall thresholds `right` (W, P) of `total` (W, 1) objects reach."""
    recall = right / total
    nearest = np.rint(recall * (len(RECALLS) - 1)).astype(np.int32)
    np.minimum(nearest, len(RECALLS) - 1, out=nearest)
    nearest += recall >= np.take(RECALLS, nearest)
    return nearest
