"""Which score to ask for, class by class: the table of what each threshold gives, and the best by a wish.

Legend:
    N  detections        K  classes        S  thresholds
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)
"""Thresholds that are looked at."""
PRIOR_OBJECTS = 20
"""A class with so many objects goes by itself and by all classes together in equal parts, a rarer one more by all."""
TAU = 0.5
"""IoU from which a detection is right."""
Goal = Literal["f1", "precision", "recall", "lrp"]
GOALS = ("f1", "precision", "recall", "lrp")


@dataclass(frozen=True)
class ThresholdTable:
    """What each threshold of `GRID` would give on the data that it was made of. Counts may be fractions, of a prior."""

    right: np.ndarray
    """(K, S): right detections that score at least so much."""
    false: np.ndarray
    """(K, S): false ones."""
    misplacement: np.ndarray
    """(K, S): sum of 1 - IoU over the right ones."""
    objects: np.ndarray
    """(K,)."""

    @property
    def precision(self) -> np.ndarray:
        """(K, S); 1 where nothing is left to be wrong."""
        every = self.right + self.false
        return np.divide(self.right, every, out=np.ones(every.shape), where=every > 0)

    @property
    def recall(self) -> np.ndarray:
        """(K, S); nan without objects."""
        objects = np.broadcast_to(self.objects[:, None], self.right.shape)
        return np.divide(self.right, objects, out=np.full(objects.shape, np.nan), where=objects > 0)

    @property
    def f1(self) -> np.ndarray:
        """(K, S); nan where there is neither object nor detection."""
        both = self.right + self.false + self.objects[:, None]
        return np.divide(2 * self.right, both, out=np.full(both.shape, np.nan), where=both > 0)

    @property
    def lrp(self) -> np.ndarray:
        """(K, S): localisation recall precision error (Oksuz et al., 2018), 0 … 1, lower is better."""
        every = self.false + self.objects[:, None]  # right, false and missed
        parts = self.misplacement / (1 - TAU) + self.false + self.objects[:, None] - self.right
        return np.divide(parts, every, out=np.full(every.shape, np.nan), where=every > 0)

    def total(self) -> "ThresholdTable":
        """All classes together, as one."""
        return ThresholdTable(
            *(
                values.sum(axis=0, keepdims=True)
                for values in (self.right, self.false, self.misplacement, self.objects)
            )
        )

    def shrunk(self, prior: float = PRIOR_OBJECTS) -> "ThresholdTable":
        """With `prior` objects more in each class, found as those of all classes together are."""
        every = self.total()
        share = prior / max(1.0, float(every.objects[0]))
        return ThresholdTable(
            self.right + share * every.right,
            self.false + share * every.false,
            self.misplacement + share * every.misplacement,
            self.objects + share * every.objects,
        )


def threshold_table(
    scores: np.ndarray,
    is_right: np.ndarray,
    categories: np.ndarray,
    overlaps: np.ndarray,
    objects: np.ndarray,
) -> ThresholdTable:
    """Of detections (N,) that count, whether right, their classes and IoU with what they found; `objects` (K,)."""
    num_classes = len(objects)
    columns = np.searchsorted(GRID, scores, "right")  # thresholds that a score reaches
    place = categories * (len(GRID) + 1) + columns
    size = num_classes * (len(GRID) + 1)
    tables = []
    for weights in (is_right.astype(float), (~is_right).astype(float), np.where(is_right, 1 - overlaps, 0.0)):
        counts = np.bincount(place, weights, size).reshape(num_classes, -1)
        tables.append(np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, 1:])
    return ThresholdTable(tables[0], tables[1], tables[2], objects.astype(float))


def check_goal(goal: str, wanted: float) -> None:
    """Raises ValueError for a wish that means nothing."""
    if goal not in GOALS:
        raise ValueError(f"goal={goal} is unknown; take {', '.join(GOALS)}")
    if not 0 < wanted <= 1:
        raise ValueError(f"wanted={wanted} must be above 0 and at most 1")


def best_thresholds(table: ThresholdTable, goal: Goal = "f1", wanted: float = 0.9) -> np.ndarray:
    """(K,): the threshold of each class that serves `goal` best, rare classes leaning on all of them.

    For "precision" the lowest that gives at least `wanted`, for "recall" the highest; where none does, the nearest.
    """
    check_goal(goal, wanted)
    shrunk = table.shrunk()
    if goal == "f1":
        return GRID[_middle_of_best(np.nan_to_num(shrunk.f1, nan=-1.0))]
    if goal == "lrp":
        return GRID[_middle_of_best(-np.nan_to_num(shrunk.lrp, nan=1.0))]
    values = shrunk.precision if goal == "precision" else np.nan_to_num(shrunk.recall)
    enough = values >= wanted
    if goal == "precision":
        # From there on up, so that a lucky place lower down is not taken.
        enough = np.logical_and.accumulate(enough[:, ::-1], axis=1)[:, ::-1]
        place = np.where(enough.any(axis=1), enough.argmax(axis=1), values.argmax(axis=1))
    else:
        last = enough.shape[1] - 1 - enough[:, ::-1].argmax(axis=1)
        place = np.where(enough.any(axis=1), last, 0)
    return GRID[place]


def _middle_of_best(values: np.ndarray) -> np.ndarray:
    """(K,): the middle of the first run of thresholds that are as good as any."""
    is_best = values >= values.max(axis=1, keepdims=True) - 1e-12
    first = is_best.argmax(axis=1)
    after = np.arange(values.shape[1]) >= first[:, None]
    ended = ~is_best & after
    end = np.where(ended.any(axis=1), ended.argmax(axis=1), values.shape[1])
    return (first + end - 1) // 2
